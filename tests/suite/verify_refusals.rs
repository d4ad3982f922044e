//! What `verify` refuses, and in which sentence.

use std::fs;
use std::process::Command;

use crate::support::{failure, interpreter, onnxruntime, text};
use crate::verify::{exported, refused};

/// What a model's file says of itself may be anything.
#[test]
fn a_model_of_other_insides_is_refused() {
    let (_home, checkpoint, model) = exported("tiny", &["--batch-size", "2", "--seq-len", "40"]);
    let edit = |code: &str| {
        let program = format!(
            "import json, onnx; m = onnx.load('{0}', load_external_data=False); p = m.metadata_props[0]; says = json.loads(p.value)\n{code}\np.value = json.dumps(says)\nonnx.save(m, '{0}')",
            text(&model)
        );
        let edited = Command::new(interpreter()).args(["-c", &program]).status();
        assert!(edited.unwrap().success());
    };
    edit("says['residuals'] = says['routers']");
    let error = refused(&model, &checkpoint, &["--trace"]);
    assert!(error.contains("has a residual stream of other sizes"), "{error}");
    edit("m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0");
    let error = refused(&model, &checkpoint, &[]);
    assert!(error.trim_end().lines().count() == 1, "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_that_is_no_library_is_said_to_be_none() {
    let (_home, checkpoint, model) = exported("tiny", &[]);
    let base = ["verify", text(&model), "--checkpoint", text(&checkpoint)];
    let error = failure(&[&base, &["--onnxruntime", "/etc/passwd"][..]].concat());
    assert!(error.contains("/etc/passwd` is no library that this system can load"), "{error}");
    let missing = checkpoint.join("owner/name");
    let error = refused(&model, &missing, &[]);
    assert!(error.contains("there is nothing at `") && !error.contains("on the hub"), "{error}");
}

#[test]
fn what_cannot_be_verified_is_said_in_a_sentence() {
    let (home, checkpoint, model) = exported("tiny", &["--batch-size", "2", "--seq-len", "9"]);
    let (_other_home, other, cached) = exported("tiny-1-kv", &["--kv-cache"]);
    let broken = home.path().join("broken.onnx");
    fs::write(&broken, "no model").unwrap();
    for (model, checkpoint, options, sentence) in [
        (&broken, &checkpoint, &[][..], "broken.onnx` is not an ONNX model"),
        (
            &model,
            &other,
            &[],
            "the model has 320 tokens, and the checkpoint 77: it was made from another one",
        ),
        (&model, &checkpoint, &["--batch", "3"], "the model takes 2 rows, and --batch says 3"),
        (
            &model,
            &checkpoint,
            &["--tokens", "10"],
            "texts of 9 tokens at most, and --tokens says 10",
        ),
        (&cached, &other, &["--tokens", "5", "--decode", "5"], "leaves nothing of 5 tokens"),
        (&cached, &other, &["--tokens", "1000000"], "context is 131072 tokens, and --tokens says"),
        (
            &cached,
            &other,
            &["--onnxruntime", "no/where"],
            "no/where` holds no library of onnxruntime",
        ),
        (&home.path().join("none.onnx"), &checkpoint, &[], "none.onnx"),
    ] {
        let options: Vec<&str> = options.to_vec();
        let error = match options.first() {
            Some(&"--onnxruntime") => {
                let base = ["verify", text(model), "--checkpoint", text(checkpoint)];
                failure(&[&base[..], &options].concat())
            }
            _ => refused(model, checkpoint, &options),
        };
        assert!(error.contains(sentence) && error.trim_end().lines().count() == 1, "{error}");
    }
    fs::remove_dir_all(&checkpoint).unwrap();
    let error = refused(&model, &other, &[]);
    assert!(error.contains("model.safetensors`, and that is not there"), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
}

/// By the name of its file, which is where the library says its version.
#[cfg(unix)]
#[test]
fn an_onnxruntime_that_is_too_old_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("libonnxruntime.so.1.23.0");
    fs::copy(onnxruntime().join("capi/libonnxruntime.so.1.32.0"), &library).unwrap();
    for (target, needed) in [("onnx", "1.23.1"), ("ort", "1.32.0")] {
        let (_home, checkpoint, model) = exported("tiny", &["--target", target]);
        let base = ["verify", text(&model), "--checkpoint", text(&checkpoint)];
        let error = failure(&[&base, &["--onnxruntime", text(&library)][..]].concat());
        let sentence =
            format!("is onnxruntime 1.23.0, and a model of --target {target} needs {needed}");
        assert!(error.contains(&sentence), "{error}");
    }
}
