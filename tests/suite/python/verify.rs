//! `verify` of models in onnxruntime.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::environment::{interpreter, onnxruntime};
use crate::fake_hub::HubTest;
use crate::layout_fixtures::{LAYOUTS, edit_tensors, edited, in_folder};
use crate::support::{
    Home, assert_contains, assert_starts, binary, edit_json, export, export_args, failure, fixture,
    model_path, printed, run, sentence, shell, summary, text,
};

/// Runs `verify` with the tests' onnxruntime: the report, `null` if there is none, and the error.
fn verify(model: &Path, checkpoint: &Path, options: &[&str]) -> (Value, String) {
    let base = ["verify", text(model), "--checkpoint", text(checkpoint)];
    let library = ["--onnxruntime", text(onnxruntime()), "--json"];
    let output = run(&[&base, &library[..], options].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    let report = match &output.stdout[..] {
        [] => Value::Null,
        printed => serde_json::from_slice(printed).unwrap(),
    };
    let status = i32::from(report["passed"] != true);
    assert_eq!(output.status.code(), Some(status), "{options:?}: {report} {error}");
    (report, error)
}

/// The report of a model that passes.
#[track_caller]
pub fn passes(model: &Path, checkpoint: &Path, options: &[&str]) -> Value {
    let (report, error) = verify(model, checkpoint, options);
    assert_eq!(report["passed"], true, "{options:?}: {error}");
    report
}

/// The report of a model that fails, and the error.
#[track_caller]
pub fn fails(model: &Path, checkpoint: &Path, options: &[&str]) -> (Value, String) {
    let (report, error) = verify(model, checkpoint, options);
    assert_eq!(report["passed"], false, "{options:?}: {error}");
    (report, error)
}

/// The error of a model that cannot be verified.
#[track_caller]
pub fn refused(model: &Path, checkpoint: &Path, options: &[&str]) -> String {
    let (report, error) = verify(model, checkpoint, options);
    let mut lines = error.lines();
    assert!(report.is_null() && lines.all(|line| line.starts_with("error: ")), "{report} {error}");
    error
}

/// A folder with a fixture as its checkpoint, and a model of it.
pub fn exported(name: &str, options: &[&str]) -> (Home, PathBuf, PathBuf) {
    let home = Home::with(name);
    let ((model, _), checkpoint) = (home.export("model", options), home.checkpoint());
    (home, checkpoint, model_path(&model, options))
}

/// Checkpoint, options of the export, options of `verify`, and number of compared positions.
const KINDS: [(&str, &[&str], &[&str], u64); 28] = [
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
    ("tiny", &["--stages", "2"], &[], 40),
    ("tiny", &["--stages", "3", "--functions"], &[], 40),
    ("tiny", &["--stages", "3", "--kv-cache"], &["--batch", "3", "--tokens", "30"], 75),
    ("tiny", &["--stages", "2", "--target", "ort"], &[], 96),
    ("tiny", &["--stages", "0..1,1..3", "--external-data", "copy"], &[], 40),
    ("tiny", &["--stages", "3", "--target", "ort", "--last-logits"], &["--batch", "2"], 36),
    ("tiny", &["--stages", "2", "--kv-cache", "--seq-len", "7", "--batch-size", "2"], &[], 68),
    ("tiny", &["--stages", "2", "--layers", "2", "--target", "ort"], &[], 96),
    ("tiny-3-heads", &["--stages", "4", "--target", "ort"], &["--batch", "2"], 61),
    ("tiny-1-kv", &["--stages", "1", "--kv-cache"], &["--batch", "2"], 64),
    ("trained", &["--stages", "2", "--kv-cache"], &[], 144),
    ("trained", &["--stages", "4", "--target", "ort"], &[], 144),
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
            // Logits of the trained fixture are up to 20, and the bound grows with them.
            let most = if name == "trained" { 2e-4 } else { 1e-4 };
            assert!(max.as_f64().unwrap() > 0.0 && bound.as_f64().unwrap() < most, "{case}");
            let last = options.contains(&"--last-logits");
            assert_eq!(report["trace"].is_null(), trace.is_empty() && !last, "{case}");
            assert_eq!(report["trace"]["first"], Value::Null, "{case}");
        }
    }
}

#[test]
fn accepts_every_layout_and_staged_file() {
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let staged = home.join("staged.safetensors");
        let options = ["--kv-cache", "--save-weights", text(&staged)];
        let (model, _) = home.export("model", &options);
        for source in [&home.checkpoint(), &staged] {
            let report = passes(&model, source, &["--tokens", "20"]);
            assert_eq!(report["identity"], json!({"is": "same"}), "{layout}");
        }
    }
}

/// Of the checkpoint, wherever the model's bytes are.
#[test]
fn tells_weights_of_zeros() {
    let home = edited(|folder| {
        edit_tensors(folder, |tensors| {
            tensors.get_mut("block.1.mlp.mlp2_weight.blocks").unwrap().2.fill(0);
        });
    });
    for options in [&[][..], &["--external-data", "copy"], &["--experts", "bf16"]] {
        let (model, _) = home.export("model", options);
        let report = passes(&model, &home.checkpoint(), &["--tokens", "12"]);
        assert_eq!(report["zeros"], json!(["layers.1.mlp.experts.down.blocks"]), "{options:?}");
    }
}

#[test]
fn identifies_converted_weights() {
    let (home, checkpoint, _) = exported("tiny", &["--experts", "bf16"]);
    // The folder of a model stands for it.
    let report = passes(&home, &checkpoint, &[]);
    assert_eq!(report["identity"], json!({"is": "converted", "experts": "bf16", "dense": "bf16"}));
}

#[test]
fn tells_whether_swiglu_limit_was_reached() {
    for (limit, limited) in [(7.0, false), (0.5, true)] {
        let home = Home::with("tiny");
        let path = home.join("checkpoint/config.json");
        edit_json(&path, |config| config["swiglu_limit"] = json!(limit));
        let (model, _) = home.export("model", &[]);
        let report = passes(&model, &home.checkpoint(), &["--tokens", "12"]);
        let experts = &report["experts"];
        assert_eq!((&experts["limit"], &experts["limited"]), (&json!(limit), &json!(limited)));
    }
}

#[test]
fn export_verifies_its_model() {
    let home = Home::new();
    let (tiny, model) = (fixture("tiny"), home.join("model.onnx"));
    let verified = ["--verify", "--tolerance", "1e-4", "--json"];
    let with_runtime = |path: &Path| {
        let mut command = binary(&export_args(&tiny, &model, &verified));
        command.env("ORT_DYLIB_PATH", path);
        command
    };
    let summary = summary(&mut with_runtime(onnxruntime()));
    assert_eq!(summary["verification"]["passed"], true);
    assert_eq!(summary["model"]["path"], json!(model));

    fs::remove_file(&model).unwrap();
    let error = sentence(&mut with_runtime(Path::new("nowhere")));
    assert_contains(&error, "nowhere` has no onnxruntime library");
    let advice = "(the environment variable ORT_DYLIB_PATH names it: correct or unset it); pass --onnxruntime PATH";
    assert_contains(&error, advice);
    assert!(!model.exists(), "a missing library is an error before anything is written");
}

#[test]
fn export_prints_summary_even_if_verification_fails() {
    let home = edited(|folder| {
        edit_tensors(folder, |tensors| {
            let (_, _, data) = tensors.get_mut("unembedding.weight").unwrap();
            // Where no sample is.
            data[5000..5002].copy_from_slice(&[0xff, 0x7f]);
        });
    });
    let (checkpoint, model) = (home.checkpoint(), home.join("model.onnx"));
    let options = ["--json", "--verify", "--onnxruntime", text(onnxruntime())];
    let output = run(&export_args(&checkpoint, &model, &options));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["model"]["path"], json!(model));
    assert_eq!(summary["verification"], Value::Null);
    let error = String::from_utf8(output.stderr).unwrap();
    let begins = "error: the model is written, and could not be verified: the reference's logits";
    assert_starts(&error, begins);
}

/// Its download is opened by the rule of the export, also where the folder holds another save.
#[test]
fn export_from_the_hub_is_verified() {
    let test = HubTest::new();
    let verified = ["--verify", "--onnxruntime", text(onnxruntime())];
    for source in [test.root(), test.original()] {
        let summary = test.hub.export(&[&source[..], &verified].concat());
        assert_eq!(summary["verification"]["passed"], true, "{summary}");
        assert_eq!(summary["verification"]["identity"], json!({"is": "same"}));
    }
}

#[test]
fn compares_rounded_model_with_its_own_values() {
    let home = in_folder("f32");
    let (checkpoint, staged) = (home.checkpoint(), home.join("staged.safetensors"));
    edit_tensors(&checkpoint, |tensors| {
        let values = &mut tensors.get_mut("model.layers.1.mlp.experts.down_proj").unwrap().2;
        // A third more, which MXFP4 cannot represent.
        for value in values.as_chunks_mut().0.iter_mut().step_by(7) {
            *value = (f32::from_le_bytes(*value) * 4.0 / 3.0).to_le_bytes();
        }
    });
    let rounded = ["--experts", "mxfp4", "--accept-rounding", "--save-weights", text(&staged)];
    let (model, _) = home.export("model", &rounded);
    let report = passes(&model, &checkpoint, &[]);
    assert_eq!(report["tolerance"]["from"], "own_numbers");
    let report = passes(&model, &checkpoint, &["--tolerance", "9"]);
    assert_eq!(report["tolerance"], json!({"bound": 9.0, "from": "asked"}));
    assert_eq!(report["identity"], json!({"is": "converted", "experts": "mxfp4", "dense": "bf16"}));
    assert!(report["logits"]["max"].as_f64().unwrap() > 1e-3, "{report}");
    let report = passes(&model, &staged, &[]);
    assert_eq!(report["identity"], json!({"is": "same"}));
}

/// There is no default tolerance for operators that round.
#[test]
fn compares_quantized_models_with_their_own_values() {
    let (_home, tiny, model) = exported("tiny-128", &[]);
    let library = ["--onnxruntime", text(onnxruntime())];
    let verified = [&["verify", text(&model), "--checkpoint", text(&tiny)], &library[..]].concat();
    for options in [
        &["--experts", "int4", "--dense", "int4"][..],
        &["--experts", "int8", "--dense", "int8", "--kv-cache"],
        &["--experts", "int4", "--dense", "int8", "--target", "ort", "--keep-activations"],
    ] {
        export(&export_args(&tiny, &model, options));
        let report = passes(&model, &tiny, &[]);
        assert_eq!(report["tolerance"]["from"], "own_numbers", "{options:?}");
        assert!(report["logits"]["max"].as_f64().unwrap() < 1e-5, "{options:?}");
        // The checkpoint's own values differ by the rounding.
        let report = passes(&model, &tiny, &["--tolerance", "10"]);
        assert!(report["logits"]["max"].as_f64().unwrap() > 0.01, "{options:?}");
    }
    for (options, why) in [
        (&["--target", "ort", "--dense", "int8"][..], "quantizes activations to 8 bits"),
        (&["--target", "ort", "--experts", "int4"], "unless activations are kept in float"),
        (&["--target", "ort", "--compute", "f16"], "it computes in f16"),
    ] {
        export(&export_args(&tiny, &model, options));
        assert_contains(&failure(&verified), why);
        passes(&model, &tiny, &["--tolerance", "10"]);
    }
    let webgpu = ["--target", "ort", "--ep", "webgpu", "--experts", "int4"];
    export(&export_args(&tiny, &model, &webgpu));
    let expected = "is for the execution provider `webgpu` and cannot run on a CPU";
    assert_contains(&failure(&verified), expected);
}

/// Without the option, Python's onnxruntime is found, but not by code in the working folder,
/// where Python looks for modules first.
#[cfg(unix)]
#[test]
fn finds_onnxruntime_of_python_and_prints_report() {
    let (home, checkpoint, model) = exported("tiny", &[]);
    let trace = home.join("it-ran");
    for module in ["importlib", "onnxruntime", "site", "encodings", "os", "sys"] {
        let code = format!("open({:?}, 'w')", text(&trace));
        fs::write(home.join(format!("{module}.py")), code).unwrap();
    }
    let with_path = |path: &Path| {
        let mut command = binary(&["verify", text(&model), "--checkpoint", text(&checkpoint)]);
        command.current_dir(&*home).env("PATH", path).env_remove("ORT_DYLIB_PATH");
        command
    };
    let report = printed(&mut with_path(interpreter().parent().unwrap()));
    assert!(!trace.exists());
    for line in [
        "model    ",
        "against  ",
        "OpenAI's original layout, 3 layers",
        "ran in   onnxruntime 1.32.0, ",
        "inputs   1 row of 40 random tokens (seed 0), 0 decode steps; 40 positions compared",
        "error    max ",
        "logits   up to ",
        "the same largest one at 40 of 40 positions",
        "weights  987 kB in place, 0 B compared, none different",
        "  by the exporter's reading of the checkpoint",
        "  no value reached SwiGLU's limit of 7: it is not tested",
        "allowed  ",
        "  by the reference's own reading of the checkpoint",
        "took     weights ",
        "verdict  the model computes what the checkpoint says",
    ] {
        assert_contains(&report, line);
    }
    let error = sentence(&mut with_path(&checkpoint));
    assert_starts(&error, "no onnxruntime was found in ");
    assert_contains(&error, "pip install onnxruntime");
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
    let (_, output, error) = shell(&line, &home);
    assert_eq!((&*output, &*error), ("1\n", "error: interrupted\n"));
}
