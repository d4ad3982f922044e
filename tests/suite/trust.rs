//! What files say of themselves is held against what is in them, and decides nothing that
//! is not theirs to decide.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::refusals::{broken, edit_config, write_index};
use crate::support::{contents, copy_folder, export, failure, fixture, interpreter, run, text};
use crate::verify::{exported, fails, passes, refused};

type Edit = fn(&mut Value);

/// A staged file whose metadata was edited.
fn staged(home: &Path, options: &[&str], edit: impl FnOnce(&mut Value)) -> std::path::PathBuf {
    let (tiny, path) = (fixture("tiny"), home.join("w.safetensors"));
    let base = ["--checkpoint", text(&tiny), "--save-weights", text(&path), "--skip-onnx"];
    let _ = fs::remove_file(&path);
    export(&[&base, options].concat());
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(length);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let said = &mut header["__metadata__"]["gpt_oss_export"];
    let mut metadata = serde_json::from_str(said.as_str().unwrap()).unwrap();
    edit(&mut metadata);
    *said = metadata.to_string().into();
    let header = header.to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat())
        .unwrap();
    path
}

/// Files are named after it.
#[test]
fn a_fingerprint_is_digits_and_no_path() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("a/b");
    for said in ["x/../../escaped/file", "0123456789a", "0123456789AB", "0123456789ab0", ""] {
        let staged = staged(home.path(), &[], |metadata| metadata["fingerprint"] = said.into());
        let model = out.join("model.onnx");
        let sentence = failure(&["--weights", text(&staged), "--output", text(&model)]);
        assert!(sentence.contains("is not a fingerprint of 12 hexadecimal digits"), "{sentence}");
        assert_eq!(contents(home.path()).len(), 1, "nothing but the staged file");
    }
}

#[test]
fn provenances_are_of_the_tensors_that_are_there() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model.onnx");
    let int4 = ["--experts", "int4"];
    let cases: [(&[&str], Edit, &str); 4] = [
        (
            &int4,
            |metadata| metadata["experts"]["format"] = "mxfp4".into(),
            "experts are in int4, expected mxfp4",
        ),
        (&[], |metadata| metadata["dense"]["format"] = "f32".into(), " are in bf16, expected f32"),
        (
            &int4,
            |metadata| metadata["experts"]["origin"] = "\u{1b}[2Jmxfp4".into(),
            "[2Jmxfp4\" is not a format of matrices",
        ),
        (
            &int4,
            |metadata| metadata["experts"]["relative_error"] = (-1).into(),
            "the relative error of experts is -1",
        ),
    ];
    for (options, edit, expected) in cases {
        let staged = staged(home.path(), options, edit);
        let sentence = failure(&["--weights", text(&staged), "--output", text(&model)]);
        assert!(sentence.contains(expected), "{sentence}\nlacks: {expected}");
        assert!(sentence.ends_with("save the weights again"), "{sentence}");
    }
}

/// Renames a tensor of a model's graph, which computes the same.
fn rename(model: &Path, from: &str, to: &str) {
    let program = format!(
        "import onnx; m = onnx.load('{0}', load_external_data=False)\n\
         for t in m.graph.initializer: t.name = '{to}' if t.name == '{from}' else t.name\n\
         for n in m.graph.node: n.input[:] = ['{to}' if i == '{from}' else i for i in n.input]\n\
         onnx.save(m, '{0}')",
        text(model)
    );
    assert!(Command::new(interpreter()).args(["-c", &program]).status().unwrap().success());
}

#[test]
fn verify_finds_renamed_weight() {
    let (_home, checkpoint, model) = exported("tiny", &[]);
    rename(&model, "embedding.weight", "other.weight");
    let (report, sentence) = fails(&model, &checkpoint, &[]);
    assert_eq!(report["weights"]["missing"], json!(["embedding.weight"]));
    assert_eq!(report["weights"]["unknown"], json!(["other.weight"]));
    assert!(sentence.contains("missing or incomplete: `embedding.weight`"), "{sentence}");
    passes(&model, &checkpoint, &["--tolerance", "1e-4"]);
}

#[test]
fn verify_refuses_huge_inputs() {
    let (home, checkpoint, model) = exported("tiny", &["--batch-size", "2", "--seq-len", "9"]);
    let huge = home.path().join("huge.onnx");
    for axis in [0, 1] {
        let program = format!(
            "import onnx; m = onnx.load('{}', load_external_data=False)\n\
             for v in [*m.graph.input, *m.graph.output]:\n  \
             v.type.tensor_type.shape.dim[{axis}].dim_value = 1 << 40\n\
             onnx.save(m, '{}')",
            text(&model),
            text(&huge)
        );
        assert!(Command::new(interpreter()).args(["-c", &program]).status().unwrap().success());
        let sentence = refused(&huge, &checkpoint, &[]);
        assert!(sentence.contains("1099511627776"), "{sentence}");
    }
}

/// Python searches the working folder first.
#[cfg(unix)]
#[test]
fn verify_runs_no_python_of_the_working_folder() {
    let (home, checkpoint, model) = exported("tiny", &[]);
    let trace = home.path().join("it-ran");
    for module in ["importlib", "onnxruntime", "site", "encodings", "os", "sys"] {
        let code = format!("open({:?}, 'w')", text(&trace));
        fs::write(home.path().join(format!("{module}.py")), code).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
        .args(["verify", text(&model), "--checkpoint", text(&checkpoint)])
        .current_dir(home.path())
        .env("PATH", interpreter().parent().unwrap())
        .env_remove("ORT_DYLIB_PATH")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!trace.exists());
}

/// Two checkpoints in one folder, of which one is left from before.
#[test]
fn an_index_beside_other_weights_is_ambiguous() {
    let home = broken(|folder| {
        fs::copy(folder.join("model.safetensors"), folder.join("old.safetensors")).unwrap();
        let all = json!({"embedding.weight": "old.safetensors"});
        write_index(folder, &all);
    });
    let model = home.path().join("m.onnx");
    let export = ["--checkpoint", text(home.path()), "--output", text(&model)];
    for command in [&export[..], &["inspect", text(home.path())]] {
        let sentence = failure(command);
        assert!(sentence.contains("programs differ in which they read"), "{sentence}");
    }
    fs::remove_file(home.path().join("model.safetensors")).unwrap();
    assert!(run(&export).status.success());
}

/// What says nothing useful about a path that is there is worse than the system's word.
#[cfg(unix)]
#[test]
fn a_config_that_leads_nowhere_is_not_absent() {
    let home = broken(|folder| {
        let config = folder.join("config.json");
        fs::remove_file(&config).unwrap();
        std::os::unix::fs::symlink("blob", config).unwrap();
    });
    let sentence = failure(&["inspect", text(home.path())]);
    assert!(sentence.contains("config.json") && !sentence.contains("holds no"), "{sentence}");
    // Nor is such a folder the name of a repository.
    let link = home.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"))
        .args(["--checkpoint", "home/link", "--output", "m.onnx"])
        .current_dir({
            let above = home.path().join("above");
            fs::create_dir_all(above.join("home")).unwrap();
            fs::rename(&link, above.join("home/link")).unwrap();
            above
        })
        .output()
        .unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert!(sentence.starts_with("error: there is no folder `home/link`"), "{sentence}");
}

/// ONNX's checker takes any name that begins with two dots for the folder above.
#[test]
fn a_folder_of_dots_is_not_read_in_place() {
    let home = tempfile::tempdir().unwrap();
    let (hidden, model) = (home.path().join("..hidden"), home.path().join("m.onnx"));
    copy_folder(&fixture("tiny"), &hidden);
    let summary = export(&["--checkpoint", text(&hidden), "--output", text(&model)]);
    assert_eq!(summary["weights"]["in_place"], false);
    let obstacle = summary["weights"]["obstacle"].as_str().unwrap();
    assert!(obstacle.contains("begins with two dots"), "{obstacle}");
}

/// Names of others on a terminal.
#[cfg(unix)]
#[test]
fn control_characters_of_paths_are_escaped() {
    let home = tempfile::tempdir().unwrap();
    let tiny = home.path().join("tiny\u{1b}[2J\nwritten  /etc/passwd");
    copy_folder(&fixture("tiny"), &tiny);
    let model = home.path().join("model\u{1b}[2J.onnx");
    let output = run(&["--checkpoint", text(&tiny), "--output", text(&model)]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(r"model\u{1b}[2J.onnx") && !said.contains('\u{1b}'), "{said}");
    assert!(said.contains(r"tiny\u{1b}[2J\nwritten  /etc/passwd"), "{said}");
    assert!(!said.contains("\nwritten  /etc/passwd"), "{said}");
}

/// Of a wrapper's or an adapter's checkpoint it is said what to do.
#[test]
fn names_that_a_wrapper_has_left_are_known() {
    let inspected = |names: fn(&str) -> Vec<String>| {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("tiny");
        copy_folder(&fixture("tiny-hf"), &folder);
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = whole
            .iter()
            .flat_map(|(name, view)| names(name).into_iter().map(move |it| (it, view.clone())));
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        failure(&["inspect", text(&folder)])
    };
    let sentence = inspected(|name| vec![format!("base_model.model.{name}")]);
    assert!(sentence.contains("have the prefix `base_model.model.` of a wrapper"), "{sentence}");
    let sentence =
        inspected(|name| vec![name.replace("q_proj.weight", "q_proj.base_layer.weight")]);
    assert!(sentence.contains("of a model with an unmerged adapter"), "{sentence}");
    let sentence = inspected(|name| vec![name.replace("mlp.experts", "mlp.experts.base_layer")]);
    assert!(sentence.contains("of a model with an unmerged adapter"), "{sentence}");
    let sentence = inspected(|name| vec![name.to_owned(), format!("{name}.lora_A.weight")]);
    assert!(sentence.contains("of a model with an unmerged adapter"), "{sentence}");
    let sentence = inspected(|name| vec![name.replace("input_layernorm", "other")]);
    assert!(sentence.contains("lacks tensor"), "{sentence}");
}

/// Absent keys mean different things to different programs.
#[test]
fn a_config_without_a_rotation_is_not_guessed_at() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tiny");
    copy_folder(&fixture("tiny-hf"), &folder);
    edit_config(&folder, "\"rope_scaling\"", "\"rope_scaled\"");
    let sentence = failure(&["inspect", text(&folder)]);
    assert!(sentence.contains("`rope_scaling` must be an object"), "{sentence}");
}
