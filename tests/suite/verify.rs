//! `verify` on real models in real onnxruntime: every kind of model passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::derived;
use crate::support::{copy_folder, export, failure, fixture, interpreter, onnxruntime, run, text};

/// Runs `verify` with the tests' onnxruntime.
pub fn verify(model: &Path, checkpoint: &Path, options: &[&str]) -> Output {
    let base = ["verify", text(model), "--checkpoint", text(checkpoint)];
    run(&[&base, &["--onnxruntime", text(onnxruntime()), "--json"][..], options].concat())
}

/// The report of a model that passes.
pub fn passes(model: &Path, checkpoint: &Path, options: &[&str]) -> Value {
    let output = verify(model, checkpoint, options);
    assert!(output.status.success(), "{options:?}: {output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true);
    report
}

/// The report of a model that does not pass, and the error.
pub fn fails(model: &Path, checkpoint: &Path, options: &[&str]) -> (Value, String) {
    let output = verify(model, checkpoint, options);
    assert_eq!(output.status.code(), Some(1), "{options:?}: {output:?}");
    assert!(!output.stdout.is_empty(), "{options:?}: {output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], false);
    (report, String::from_utf8(output.stderr).unwrap())
}

/// The error of a model that cannot be verified.
pub fn refused(model: &Path, checkpoint: &Path, options: &[&str]) -> String {
    let output = verify(model, checkpoint, options);
    assert!(output.stdout.is_empty());
    assert_eq!(output.status.code(), Some(1), "{options:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A folder with a fixture as `checkpoint`, and a model of it.
pub fn exported(name: &str, options: &[&str]) -> (TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("model.onnx"));
    copy_folder(&fixture(name), &checkpoint);
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    export(&[&base, options].concat());
    (home, checkpoint, model)
}

/// Checkpoint, options of the export, options of `verify`, and number of compared positions.
const KINDS: [(&str, &[&str], &[&str], u64); 16] = [
    ("tiny", &[], &[], 40),
    ("tiny", &["--functions"], &[], 40),
    ("tiny", &["--kv-cache"], &[], 96),
    ("tiny", &["--kv-cache", "--functions"], &["--batch", "3", "--tokens", "30"], 75),
    ("tiny", &["--target", "ort"], &[], 96),
    ("tiny", &["--target", "ort"], &["--batch", "3", "--tokens", "30"], 75),
    ("tiny", &["--target", "ort", "--external-data", "copy"], &["--decode", "39"], 120),
    ("tiny", &["--last-logits"], &["--batch", "2"], 10),
    ("tiny", &["--kv-cache", "--last-logits"], &[], 53),
    ("tiny", &["--target", "ort", "--last-logits"], &["--batch", "2"], 36),
    ("tiny", &["--batch-size", "2", "--seq-len", "12"], &[], 18),
    ("tiny", &["--kv-cache", "--seq-len", "7", "--batch-size", "2"], &[], 68),
    ("tiny", &["--target", "ort", "--seq-len", "1"], &["--tokens", "12"], 30),
    ("tiny", &["--layers", "2", "--target", "ort"], &["--seed", "7"], 96),
    ("tiny-3-heads", &["--target", "ort"], &["--batch", "2"], 61),
    ("tiny-1-kv", &["--kv-cache"], &["--batch", "2"], 64),
];

#[test]
fn accepts_every_kind_of_model() {
    for (name, options, texts, positions) in KINDS {
        let (_home, checkpoint, model) = exported(name, options);
        for trace in [&[][..], &["--trace"]] {
            let report = passes(&model, &checkpoint, &[texts, trace].concat());
            let case = format!("{name} {options:?} {texts:?}: {report}");
            assert_eq!(report["texts"]["compared"], positions, "{case}");
            assert_eq!(report["logits"]["same_top"], positions, "{case}");
            assert_eq!(report["identity"], json!({"is": "same"}), "{case}");
            let (max, bound) = (&report["logits"]["max"], &report["tolerance"]["bound"]);
            assert!(max.as_f64().unwrap() > 0.0 && bound.as_f64().unwrap() < 1e-4, "{case}");
            let last = options.contains(&"--last-logits");
            assert_eq!(report["trace"].is_null(), trace.is_empty() && !last, "{case}");
            assert_eq!(report["trace"]["first"], Value::Null, "{case}");
        }
    }
}

#[test]
fn accepts_every_layout_and_staged_file() {
    for layout in derived::LAYOUTS {
        let home = derived::in_folder(layout);
        let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("m.onnx"));
        let staged = home.path().join("staged.safetensors");
        let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--kv-cache"];
        export(&[&base, &["--save-weights", text(&staged)][..]].concat());
        for source in [&checkpoint, &staged] {
            let report = passes(&model, source, &["--tokens", "20"]);
            assert_eq!(report["identity"], json!({"is": "same"}), "{layout}");
        }
    }
}

#[test]
fn identifies_converted_weights() {
    let (_home, checkpoint, model) = exported("tiny", &["--experts", "bf16"]);
    let report = passes(&model, &checkpoint, &[]);
    assert_eq!(report["identity"], json!({"is": "converted", "experts": "bf16", "dense": "bf16"}));
}

#[test]
fn tells_whether_swiglu_limit_was_reached() {
    for (limit, limited) in [(7.0, false), (0.5, true)] {
        let (_home, checkpoint, model) = exported("tiny", &[]);
        let config = fs::read_to_string(checkpoint.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["swiglu_limit"] = json!(limit);
        fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
        export(&["--checkpoint", text(&checkpoint), "--output", text(&model)]);
        let report = passes(&model, &checkpoint, &["--tokens", "12"]);
        let experts = &report["experts"];
        assert_eq!((&experts["limit"], &experts["limited"]), (&json!(limit), &json!(limited)));
    }
}

#[test]
fn export_verifies_its_model() {
    let home = tempfile::tempdir().unwrap();
    let (tiny, model) = (fixture("tiny"), home.path().join("model.onnx"));
    let runtime = |path: &Path| {
        std::process::Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
            .args(["--checkpoint", text(&tiny), "--output", text(&model), "--verify", "--json"])
            .args(["--tolerance", "1e-4"])
            .env("ORT_DYLIB_PATH", path)
            .output()
            .unwrap()
    };
    let output = runtime(onnxruntime());
    assert!(output.status.success(), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["verification"]["passed"], true);
    assert_eq!(summary["model"]["path"], json!(model));

    fs::remove_file(&model).unwrap();
    let output = runtime(Path::new("nowhere"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("nowhere` has no onnxruntime library"), "{error}");
    assert!(!model.exists(), "a missing library is an error before anything is written");
}

#[test]
fn export_prints_summary_even_if_verification_fails() {
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("model.onnx"));
    copy_folder(&fixture("tiny"), &checkpoint);
    let mut tensors = derived::tiny();
    tensors.get_mut("unembedding.weight").unwrap().2[..2].copy_from_slice(&[0xff, 0x7f]);
    derived::write(&checkpoint.join("model.safetensors"), &tensors);
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--json", "--verify"];
    let verified = [&base, &["--onnxruntime", text(onnxruntime())][..]].concat();
    let output = run(&verified);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["model"]["path"], &summary["verification"]),
        (&json!(model), &Value::Null)
    );
    let error = String::from_utf8(output.stderr).unwrap();
    let begins = "error: the model is written, and could not be verified: the checkpoint's own";
    assert!(error.starts_with(begins), "{error}");
}

#[test]
fn export_refuses_unverifiable_model_before_writing() {
    let home = tempfile::tempdir().unwrap();
    let (tiny, staged) = (fixture("tiny-128"), home.path().join("staged.safetensors"));
    let stage = ["--save-weights", text(&staged), "--skip-onnx", "--experts", "int4"];
    export(&[&["--checkpoint", text(&tiny)], &stage[..]].concat());
    let model = home.path().join("model.onnx");
    let verified = ["--output", text(&model), "--target", "ort", "--verify"];
    let (from_checkpoint, from_staged) =
        (["--checkpoint", text(&tiny)], ["--weights", text(&staged)]);
    for (source, options, sentence) in [
        (from_checkpoint, &["--ep", "cuda"][..], "`cuda` cannot be verified on a CPU"),
        (from_checkpoint, &["--dense", "int8"], "there is no default tolerance"),
        (from_checkpoint, &["--compute", "f16"], "it computes in f16; pass --tolerance X"),
        (from_staged, &[], "quantizes activations to 8 bits"),
    ] {
        let library = ["--onnxruntime", text(onnxruntime())];
        let error = failure(&[&source[..], &verified, &library, options].concat());
        assert!(error.contains(sentence), "{error}");
        assert!(!model.exists());
    }
}

#[test]
fn compares_rounded_model_with_its_own_values() {
    let home = derived::in_folder("f32");
    let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("model.onnx"));
    let mut tensors = derived::in_layout("f32");
    let numbers = &mut tensors.get_mut("model.layers.1.mlp.experts.down_proj").unwrap().2;
    // A third more, which MXFP4 cannot represent.
    for number in numbers.as_chunks_mut().0.iter_mut().step_by(7) {
        *number = (f32::from_le_bytes(*number) * 4.0 / 3.0).to_le_bytes();
    }
    derived::write(&checkpoint.join("model.safetensors"), &tensors);
    let staged = home.path().join("staged.safetensors");
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    let rounded = ["--experts", "mxfp4", "--accept-rounding", "--save-weights", text(&staged)];
    export(&[&base[..], &rounded].concat());
    let report = passes(&model, &checkpoint, &[]);
    assert_eq!(report["tolerance"]["from"], "own_numbers");
    let report = passes(&model, &checkpoint, &["--tolerance", "9"]);
    assert_eq!(report["tolerance"], json!({"bound": 9.0, "from": "asked"}));
    assert_eq!(report["identity"], json!({"is": "converted", "experts": "mxfp4", "dense": "bf16"}));
    assert!(report["logits"]["max"].as_f64().unwrap() > 1e-3, "{report}");
    let report = passes(&model, &staged, &[]);
    assert_eq!(report["identity"], json!({"is": "same"}));
}

#[cfg(unix)]
#[test]
fn finds_onnxruntime_of_python_and_prints_report() {
    let (home, checkpoint, model) = exported("tiny", &[]);
    let with_path = |path: &Path| {
        std::process::Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
            .args(["verify", text(&model), "--checkpoint", text(&checkpoint)])
            .env("PATH", path)
            .env_remove("ORT_DYLIB_PATH")
            .output()
            .unwrap()
    };
    let output = with_path(interpreter().parent().unwrap());
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && report.contains("ran in   onnxruntime 1.32.0, "),
        "{report}"
    );
    for line in [
        "model    ",
        "against  ",
        "OpenAI's original layout, 3 layers",
        "inputs   1 row of 40 random tokens (seed 0), 0 decode steps; 40 positions compared",
        "error    max ",
        "logits   up to ",
        "the same largest one at 40 of 40 positions",
        "weights  987 kB in place, 0 B compared, none different",
        "  no value reached SwiGLU's limit of 7: it is not tested",
        "allowed  ",
        "took     weights ",
        "verdict  the model computes what the checkpoint says",
    ] {
        assert!(report.contains(line), "{report}\nlacks: {line}");
    }
    let output = with_path(home.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("error: no onnxruntime was found in ")
            && error.contains("pip install onnxruntime"),
        "{error}"
    );
}

/// Interrupted after the library is loaded.
#[cfg(target_os = "linux")]
#[test]
fn ends_when_interrupted() {
    let (home, _, _) = exported("tiny", &[]);
    let line = format!(
        "\"$0\" verify model.onnx --checkpoint checkpoint --onnxruntime {} --tokens 130000 & \
         while ! grep -q libonnxruntime /proc/$!/maps; do sleep 0.01; done; \
         kill -INT $!; wait $!; echo $?",
        text(onnxruntime())
    );
    let output = crate::support::shell(&line, home.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((&output.stdout[..], error.as_str()), (&b"1\n"[..], "error: interrupted\n"));
}

/// There is no default tolerance for operators that round.
#[test]
fn compares_quantized_models_with_their_own_values() {
    let home = tempfile::tempdir().unwrap();
    let tiny = fixture("tiny-128");
    let model = home.path().join("m.onnx");
    let made = |options: &[&str]| {
        export(&[&["--checkpoint", text(&tiny), "--output", text(&model)], options].concat());
    };
    let library = onnxruntime();
    let asked =
        ["verify", text(&model), "--checkpoint", text(&tiny), "--onnxruntime", text(library)];
    for options in [
        &["--experts", "int4", "--dense", "int4"][..],
        &["--experts", "int8", "--dense", "int8", "--kv-cache"],
        &["--experts", "int4", "--dense", "int8", "--target", "ort", "--keep-activations"],
    ] {
        made(options);
        let report = export(&asked);
        assert_eq!(report["tolerance"]["from"], "own_numbers", "{options:?}");
        assert!(report["logits"]["max"].as_f64().unwrap() < 1e-5, "{options:?}");
        // The checkpoint's own values differ by the rounding.
        let off = export(&[&asked[..], &["--tolerance", "10"]].concat());
        assert!(off["logits"]["max"].as_f64().unwrap() > 0.01, "{options:?}");
    }
    for (options, why) in [
        (&["--target", "ort", "--dense", "int8"][..], "quantizes activations to 8 bits"),
        (&["--target", "ort", "--experts", "int4"], "unless activations are kept in float"),
        (&["--target", "ort", "--compute", "f16"], "it computes in f16"),
    ] {
        made(options);
        let sentence = failure(&asked);
        assert!(sentence.contains(why), "{sentence}");
        let report = export(&[&asked[..], &["--tolerance", "10"]].concat());
        assert_eq!(report["passed"], true);
    }
    made(&["--target", "ort", "--ep", "webgpu", "--experts", "int4"]);
    assert!(
        failure(&asked).contains("for execution provider `webgpu` cannot be verified on a CPU")
    );
}
