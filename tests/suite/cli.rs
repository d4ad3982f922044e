//! The command line: what it prints, and its exit status.

use crate::support::{
    Home, assert_contains, assert_starts, binary, cases, export, export_args, fixture, printed,
    run, shell, words,
};
use serde_json::json;

#[test]
fn prints_summary() {
    let home = Home::with("tiny");
    let arguments = ["--checkpoint", "checkpoint", "--output", "model.onnx"];
    let output = binary(&arguments).current_dir(&*home).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let summary = String::from_utf8(output.stdout).unwrap();
    for line in [
        "read     OpenAI's original layout, 3 layers, fingerprint ",
        "model    model.onnx (",
        "  input  input_ids i64 [B, T]",
        "  output logits f32 [B, T, 320]",
        "weights  987 kB in place: checkpoint/model.safetensors",
        "done     0 B of weights written, in ",
        "needs    a runtime with opset 23",
        "try      s = onnxruntime.InferenceSession(\"model.onnx\")",
    ] {
        assert_contains(&summary, line);
    }
}

/// Whether MXFP4 runs fast depends on this machine.
#[test]
fn summary_tells_what_is_slow_on_this_processor() {
    let home = Home::with("tiny");
    let (tiny, model) = (home.checkpoint(), home.join("m.onnx"));
    let warns = |options: &[&str]| {
        let summary = printed(&mut binary(&export_args(&tiny, &model, options)));
        assert_contains(&summary, "needs    ");
        let format = if options.contains(&"--keep-activations") { "int4" } else { "int8" };
        summary.contains(&format!("AVX-512, which this processor lacks: experts in MXFP4 run several times slower than in {format} without it; pass --experts {format}\n"))
    };
    #[cfg(target_arch = "x86_64")]
    let is_slow = !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"));
    #[cfg(not(target_arch = "x86_64"))]
    let is_slow = false;
    assert_eq!(warns(&["--target", "ort"]), is_slow);
    assert_eq!(warns(&["--target", "ort", "--keep-activations"]), is_slow);
    assert!(!warns(&["--target", "onnx"]) && !warns(&["--target", "ort", "--experts", "int8"]));
}

#[test]
fn summary_tells_what_to_type() {
    let home = Home::with("tiny");
    let summary = |arguments: &[&str]| {
        let source = ["--checkpoint", "checkpoint"];
        printed(binary(&[&source, arguments].concat()).current_dir(&*home))
    };
    let staged = summary(&["--save-weights", "my weights.safetensors", "--skip-onnx"]);
    let next = "next     gpt-oss-export --weights 'my weights.safetensors' --output model.onnx\n";
    assert!(staged.ends_with(next), "{staged}");
    let ort = ["--output", "m.onnx", "--target", "ort", "--dense", "int8"];
    let table = "| ; keep them in float if that rounds too much | --keep-activations
        --experts int8 | ; keep them in float, with experts in int4, if that rounds too much | --experts int4 --keep-activations";
    for [experts, advice, advised] in cases(table) {
        let rounding = summary(&[&ort[..], &words(experts)].concat());
        assert_contains(&rounding, &format!("{advice}; pass {advised}\n"));
        // The advice is accepted, and is not given again.
        assert!(!summary(&[&ort[..], &words(advised)].concat()).contains("; keep them in float"));
    }
}

#[test]
fn quiet_prints_nothing_and_json_one_object() {
    let home = Home::new();
    let (tiny, model) = (fixture("tiny"), home.join("deep/er/model.onnx"));
    let output = run(&export_args(&tiny, &model, &["--quiet"]));
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let summary = export(&export_args(&tiny, &model, &[]));
    let outputs = json!([{"name": "logits", "dtype": "f32", "shape": ["B", "T", 320]}]);
    assert_eq!(summary["model"]["outputs"], outputs);
    assert_eq!(summary["weights"]["bytes_written"], 0, "the file of the first run is reused");
}

#[test]
fn dynamic_axes_override_fixed_ones() {
    let home = Home::with("tiny");
    for (options, shape) in [
        (&["--batch-size", "2"][..], json!([2, "T"])),
        (&["--seq-len", "9"], json!(["B", 9])),
        (&["--batch-size", "2", "--dynamic-b", "--seq-len", "9"], json!(["B", 9])),
        (&["--batch-size", "2", "--dynamic-seq", "--seq-len", "9"], json!([2, "T"])),
    ] {
        let (_, summary) = home.export("model", options);
        assert_eq!(summary["model"]["inputs"][0]["shape"], shape);
    }
}

#[test]
fn wrong_usage_has_status_2() {
    let table = "| required arguments were not provided
        --checkpoint TINY | --output
        --checkpoint TINY --weights TINY --output m.onnx | cannot be used with
        --checkpoint TINY --output model.bin | expected a file name that ends in .onnx
        --checkpoint TINY --save-weights w.bin --skip-onnx | ends in .safetensors
        --checkpoint TINY --skip-onnx | --save-weights
        --checkpoint TINY --skip-onnx --save-weights w.safetensors --output m.onnx | cannot be used with
        --weights w.safetensors --output m.onnx --ignore-tensor a | cannot be used with
        --weights w.safetensors --output m.onnx --download-dir d | cannot be used with
        --weights w.safetensors --output m.onnx --offline | cannot be used with
        --weights w.safetensors --output m.onnx --headers-only | cannot be used with
        verify m.onnx --checkpoint TINY --tolerance -1 | such as 1e-4
        --checkpoint TINY --output m.onnx --layers 0 | 0 is not in
        verify m.onnx | --checkpoint
        verify m.onnx --checkpoint TINY --tokens 0 | from 1 to 1048576
        verify m.onnx --checkpoint TINY --tolerance nan | such as 1e-4
        --checkpoint TINY verify m.onnx | cannot be used with
        --checkpoint TINY --output m.onnx --seq-len 0 | --seq-len
        --checkpoint TINY --output m.onnx --external-data link | in-place";
    for [line, sentence] in cases(table) {
        let output = run(&words(&line.replace("TINY", "tests/fixtures/tiny")));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert_contains(&error, sentence);
    }
}

#[cfg(unix)]
#[test]
fn summary_that_cannot_be_printed_is_an_error_and_no_panic() {
    let home = Home::with("tiny");
    let line = "\"$0\" --checkpoint checkpoint --output a.onnx 2>err | true; cat err";
    assert_eq!(shell(line, &home), (Some(0), String::new(), String::new()));
    let line = "\"$0\" --checkpoint checkpoint --output b.onnx > /dev/full";
    let (status, _, error) = shell(line, &home);
    assert_eq!(status, Some(1));
    let start = "error: the export succeeded, but its summary could not be printed: cannot write to standard output";
    assert_starts(&error, start);
    assert!(["a.onnx", "b.onnx"].iter().all(|name| home.join(name).exists()));
}

/// One definition serves the help, completions, the man page and the version.
#[test]
fn describes_itself() {
    let said = |arguments: &[&str]| printed(&mut binary(arguments));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(said(&["completions", shell]).contains("transformers-js"), "{shell}");
    }
    let (help, manual) = (said(&["--help"]), said(&["man"]));
    for heading in ["Source:", "Output:", "Precision:", "Graph:", "Checks:", "Examples:"] {
        assert!(help.contains(&format!("\n{heading}\n")), "{help}");
    }
    assert!(manual.starts_with(".ie") && manual.contains("transformers\\-js"), "{manual}");
    let version = said(&["--version"]);
    let expected = option_env!("GPT_OSS_EXPORT_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
    assert_eq!(version, format!("gpt-oss-export {expected}\n"));
}
