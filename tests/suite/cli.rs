//! The command line: what it says, and with which status it ends.

use serde_json::{Value, json};

use crate::support::{fixture, folder_with_tiny, run, shell, text};

#[test]
fn a_summary_for_people() {
    let home = folder_with_tiny();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
        .args(["--checkpoint", "tiny", "--output", "model.onnx"])
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let summary = String::from_utf8(output.stdout).unwrap();
    for line in [
        "read     OpenAI's original layout, 3 layers, fingerprint ",
        "model    model.onnx (",
        "  input  input_ids i64 [B, T]",
        "  output logits f32 [B, T, 320]",
        "weights  987 kB in place: tiny/model.safetensors",
        "done     0 B of weights written, in ",
        "needs    a runtime with opset 23",
        "try      s = onnxruntime.InferenceSession(\"model.onnx\")",
    ] {
        assert!(summary.contains(line), "{summary}\nlacks: {line}");
    }
}

/// Where the kernel for MXFP4 is a slow one, which depends on this machine.
#[test]
fn a_summary_says_what_is_slow_here() {
    let home = folder_with_tiny();
    let model = home.path().join("m.onnx");
    let tiny = home.path().join("tiny");
    let says = |options: &[&str]| {
        let base = ["--checkpoint", text(&tiny), "--output", text(&model)];
        let summary = String::from_utf8(run(&[&base[..], options].concat()).stdout).unwrap();
        assert!(summary.contains("needs    "), "{summary}");
        summary.contains("AVX-512, which this processor lacks")
    };
    #[cfg(target_arch = "x86_64")]
    let slow = !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"));
    #[cfg(not(target_arch = "x86_64"))]
    let slow = false;
    assert_eq!(says(&["--target", "ort"]), slow);
    assert!(!says(&["--target", "onnx"]) && !says(&["--target", "ort", "--experts", "int8"]));
}

#[test]
fn quiet_says_nothing_and_json_one_object() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("deep/er/model.onnx");
    let tiny = fixture("tiny");
    let arguments = ["--checkpoint", text(&tiny), "--output", text(&model)];
    let output = run(&[&arguments[..], &["--quiet"]].concat());
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    let output = run(&[&arguments[..], &["--json"]].concat());
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        summary["model"]["outputs"],
        json!([{"name": "logits", "dtype": "f32", "shape": ["B", "T", 320]}])
    );
    assert_eq!(summary["weights"]["bytes_written"], 0, "the file of the first run is reused");
}

#[test]
fn dynamic_axes_win_over_fixed_ones() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model.onnx");
    let tiny = fixture("tiny");
    let shape = |options: &[&str]| {
        let base = ["--checkpoint", text(&tiny), "--output", text(&model), "--json"];
        let summary: Value =
            serde_json::from_slice(&run(&[&base[..], options].concat()).stdout).unwrap();
        summary["model"]["inputs"][0]["shape"].clone()
    };
    assert_eq!(shape(&["--batch-size", "2"]), json!([2, "T"]));
    assert_eq!(shape(&["--seq-len", "9"]), json!(["B", 9]));
    assert_eq!(shape(&["--batch-size", "2", "--dynamic-b", "--seq-len", "9"]), json!(["B", 9]));
    assert_eq!(shape(&["--batch-size", "2", "--dynamic-seq", "--seq-len", "9"]), json!([2, "T"]));
}

#[test]
fn wrong_usage_ends_with_status_2() {
    let tiny = fixture("tiny");
    let tiny = text(&tiny);
    for (arguments, sentence) in [
        (&[][..], "required arguments were not provided"),
        (&["--checkpoint", tiny], "--output"),
        (&["--checkpoint", tiny, "--weights", tiny, "--output", "m.onnx"], "cannot be used with"),
        (
            &["--checkpoint", tiny, "--output", "model.bin"],
            "expected a file name that ends in .onnx",
        ),
        (&["--checkpoint", tiny, "--save-weights", "w.bin", "--skip-onnx"], "ends in .safetensors"),
        (&["--checkpoint", tiny, "--skip-onnx"], "--save-weights"),
        (
            &[
                "--checkpoint",
                tiny,
                "--skip-onnx",
                "--save-weights",
                "w.safetensors",
                "--output",
                "m.onnx",
            ],
            "cannot be used with",
        ),
        (
            &["--weights", "w.safetensors", "--output", "m.onnx", "--ignore-tensor", "a"],
            "cannot be used with",
        ),
        (&["--checkpoint", tiny, "--output", "m.onnx", "--layers", "0"], "0 is not in"),
        (&["verify", "m.onnx"], "--checkpoint"),
        (&["verify", "m.onnx", "--checkpoint", tiny, "--tokens", "0"], "from 1 to 1048576"),
        (&["verify", "m.onnx", "--checkpoint", tiny, "--tolerance", "nan"], "such as 1e-4"),
        (&["--checkpoint", tiny, "verify", "m.onnx"], "cannot be used with"),
        (&["--checkpoint", tiny, "--output", "m.onnx", "--seq-len", "0"], "--seq-len"),
        (&["--checkpoint", tiny, "--output", "m.onnx", "--external-data", "link"], "in-place"),
    ] {
        let output = run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(sentence), "{arguments:?}: {error}\nlacks: {sentence}");
    }
}

#[test]
fn the_printed_example_fits_the_model() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("it's \"a\" model é.onnx");
    let tiny = fixture("tiny");
    for options in [
        &[][..],
        &["--batch-size", "2", "--seq-len", "5"],
        &["--batch-size", "3", "--kv-cache"],
        &["--last-logits"],
        &["--target", "ort"],
    ] {
        let output =
            run(&[&["--checkpoint", text(&tiny), "--output", text(&model)], options].concat());
        let summary = String::from_utf8(output.stdout).unwrap();
        let example = summary.lines().last().unwrap().strip_prefix("try      ").unwrap();
        let program = format!("import numpy, onnxruntime; {example}");
        let ran = std::process::Command::new(crate::support::interpreter())
            .args(["-c", &program])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{program}\n{}", String::from_utf8_lossy(&ran.stderr));
    }
}

#[cfg(unix)]
#[test]
fn a_summary_that_nobody_reads_is_no_panic() {
    let home = folder_with_tiny();
    let closed =
        shell("\"$0\" --checkpoint tiny --output a.onnx 2>err | true; cat err", home.path());
    assert!(closed.stdout.is_empty(), "{closed:?}");
    let full = shell("\"$0\" --checkpoint tiny --output b.onnx > /dev/full", home.path());
    let error = String::from_utf8(full.stderr).unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(
        error.starts_with(
            "error: the export is done, but its summary is lost: cannot write to standard output"
        ),
        "{error}"
    );
    assert!(home.path().join("a.onnx").exists() && home.path().join("b.onnx").exists());
}

/// One definition serves the help, completions, the manual page and the version.
#[test]
fn what_it_says_of_itself() {
    let said = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(said(&["completions", shell]).contains("transformers-js"), "{shell}");
    }
    let (help, manual) = (said(&["--help"]), said(&["man"]));
    for heading in ["From where:", "To where:", "Formats of numbers:", "The graph:", "Examples:"] {
        assert!(help.contains(&format!("\n{heading}\n")), "{help}");
    }
    assert!(manual.starts_with(".ie") && manual.contains("transformers\\-js"), "{manual}");
    let version = said(&["--version"]);
    let version = version.strip_prefix(concat!("gpt-oss-export ", env!("CARGO_PKG_VERSION")));
    // The commit follows where the sources are of a repository.
    let commit = version.unwrap().trim_end();
    let is_commit = |it: &str| it.len() >= 9 && it.chars().all(|c| c.is_ascii_hexdigit());
    let commit = commit.strip_prefix(" (").and_then(|it| it.strip_suffix(')'));
    assert!(version == Some("\n") || commit.is_some_and(is_commit), "{version:?}");
}
