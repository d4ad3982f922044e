//! Names, links and metadata in files of others are checked before they are used.

use std::fs;

use serde_json::{Value, json};

use crate::derived::{config, home, in_layout};
use crate::refusals::{broken, edit_config, write_index};
use crate::support::{
    assert_contains, binary, contents, copy_folder, export, export_args, failure, fixture,
    folder_with_checkpoint, run, sentence, set_weights_metadata, stage_args, staged_args, text,
    weights_metadata,
};

#[test]
fn refuses_edited_metadata_of_weights_files() {
    const INT4: &[&str] = &["--experts", "int4"];
    const FINGERPRINT: &str = "is not a fingerprint of 12 hexadecimal digits";
    let number = "must be a whole number from 1 to 4294967295, found 0";
    let cases: [(&str, &[&str], &str, Value, &str); 20] = [
        ("tiny", &[], "/format", json!(9), "has weights format 9"),
        // Files are named by it.
        ("tiny", &[], "/fingerprint", json!("x/../../escaped/file"), FINGERPRINT),
        ("tiny", &[], "/fingerprint", json!("0123456789a"), FINGERPRINT),
        ("tiny", &[], "/fingerprint", json!("0123456789AB"), FINGERPRINT),
        ("tiny", &[], "/fingerprint", json!("0123456789ab0"), FINGERPRINT),
        ("tiny", &[], "/fingerprint", json!(""), FINGERPRINT),
        ("tiny", INT4, "/experts/format", json!("mxfp4"), "experts are in int4, expected mxfp4"),
        ("tiny", &[], "/dense/format", json!("f32"), " are in bf16, expected f32"),
        (
            "tiny",
            INT4,
            "/experts/origin",
            json!("\u{1b}[2Jmxfp4"),
            r#""\u{1b}[2Jmxfp4" is not a format of matrices"#,
        ),
        ("tiny", INT4, "/experts/relative_error", json!(-1), "relative error of experts is -1"),
        ("tiny", &[], "/config/head_dim", json!(31), "`head_dim` must be even, found 31"),
        ("tiny", &[], "/config/hidden_size", json!(0), number),
        ("tiny", &[], "/config/num_kv_heads", json!(0), number),
        ("tiny", &[], "/config/experts_per_token", json!(0), number),
        ("tiny", &[], "/config/windows/0", json!(0), number),
        ("tiny", &[], "/config/swiglu_limit", json!("7"), "invalid metadata"),
        ("tiny", &[], "/config/swiglu_limit", json!(-7.0), "must be a positive number, found -7"),
        ("tiny", &[], "/config/swiglu_limit", json!(0.0), "must be a positive number, found 0"),
        ("tiny", &[], "/config/rope/factor", json!(-3.0), "must be a positive number, found -3"),
        (
            "tiny-128",
            &["--experts", "int8"],
            "/config/hidden_size",
            json!(120),
            "`hidden_size` must be a multiple of 32, the block size, found 120",
        ),
    ];
    for (name, options, key, value, expected) in cases {
        let home = tempfile::tempdir().unwrap();
        let (staged, model) = (home.path().join("w.safetensors"), home.path().join("a/b/m.onnx"));
        export(&stage_args(&fixture(name), &staged, options));
        let mut metadata: Value = serde_json::from_str(&weights_metadata(&staged)).unwrap();
        *metadata.pointer_mut(key).unwrap() = value;
        set_weights_metadata(&staged, metadata.to_string());
        assert_contains(&failure(&staged_args(&staged, &model, &[])), expected);
        assert_eq!(contents(home.path()).len(), 1, "nothing but the staged file");
        // Nor is it reused as the file that another run would write.
        let sentence = failure(&stage_args(&fixture(name), &staged, options));
        assert_contains(&sentence, "exists and differs from the file to write");
    }
}

/// Such as two checkpoints in one folder.
#[test]
fn refuses_index_beside_other_weights() {
    let home = broken(|folder| {
        fs::copy(folder.join("model.safetensors"), folder.join("old.safetensors")).unwrap();
        write_index(folder, &json!({"embedding.weight": "old.safetensors"}));
    });
    let model = home.path().join("m.onnx");
    let export = export_args(home.path(), &model, &[]);
    for command in [&export[..], &["inspect", text(home.path())]] {
        assert_contains(&failure(command), "programs differ in which they read");
    }
    fs::remove_file(home.path().join("model.safetensors")).unwrap();
    assert!(run(&export).status.success());
}

#[cfg(unix)]
#[test]
fn broken_links_are_not_taken_for_absent() {
    use std::os::unix::fs::symlink;
    let home = broken(|folder| {
        fs::remove_file(folder.join("config.json")).unwrap();
        symlink("blob", folder.join("config.json")).unwrap();
    });
    let error = failure(&["inspect", text(home.path())]);
    assert!(error.contains("config.json") && !error.contains("holds no"), "{error}");
    // Such a folder is not the name of a repository.
    let above = home.path().join("above");
    fs::create_dir_all(above.join("home")).unwrap();
    symlink("nowhere", above.join("home/link")).unwrap();
    let mut command = binary(&["--checkpoint", "home/link", "--output", "m.onnx"]);
    let error = sentence(command.current_dir(above));
    assert!(error.starts_with("there is no folder `home/link`"), "{error}");
}

/// ONNX's checker takes any name that begins with two dots for the folder above.
#[test]
fn folder_named_with_dots_is_not_read_in_place() {
    let home = tempfile::tempdir().unwrap();
    let (hidden, model) = (home.path().join("..hidden"), home.path().join("m.onnx"));
    copy_folder(&fixture("tiny"), &hidden);
    let summary = export(&export_args(&hidden, &model, &[]));
    assert_eq!(summary["weights"]["in_place"], false);
    assert_contains(summary["weights"]["obstacle"].as_str().unwrap(), "begins with two dots");
}

#[cfg(unix)]
#[test]
fn control_characters_in_paths_are_escaped() {
    let home = tempfile::tempdir().unwrap();
    let tiny = home.path().join("tiny\u{1b}[2J\nwritten  /etc/passwd");
    copy_folder(&fixture("tiny"), &tiny);
    let model = home.path().join("model\u{1b}[2J.onnx");
    let output = run(&export_args(&tiny, &model, &[]));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(r"model\u{1b}[2J.onnx") && !printed.contains('\u{1b}'), "{printed}");
    assert!(printed.contains(r"tiny\u{1b}[2J\nwritten  /etc/passwd"), "{printed}");
    assert!(!printed.contains("\nwritten  /etc/passwd"), "{printed}");
}

#[test]
fn recognizes_names_of_wrappers_and_adapters() {
    type Rename = fn(String) -> Vec<String>;
    let adapter = "of a model with an unmerged adapter";
    let cases: [(Rename, &str); 5] = [
        (
            |name| vec![format!("base_model.model.{name}")],
            "have the prefix `base_model.model.` of a wrapper",
        ),
        (|name| vec![name.replace("q_proj.weight", "q_proj.base_layer.weight")], adapter),
        (|name| vec![name.replace("mlp.experts", "mlp.experts.base_layer")], adapter),
        (|name| vec![format!("{name}.lora_A.weight"), name], adapter),
        (|name| vec![name.replace("input_layernorm", "other")], "lacks tensor"),
    ];
    for (rename, expected) in cases {
        let renamed = in_layout("hf").into_iter().flat_map(|(name, tensor)| {
            rename(name).into_iter().map(move |name| (name, tensor.clone()))
        });
        let home = home(&config(), &renamed.collect());
        assert_contains(&failure(&["inspect", text(&home.path().join("checkpoint"))]), expected);
    }
}

/// Absent keys mean different things to different programs.
#[test]
fn refuses_config_without_rope_scaling() {
    let home = folder_with_checkpoint("tiny-hf");
    let folder = home.path().join("checkpoint");
    edit_config(&folder, "\"rope_scaling\"", "\"rope_scaled\"");
    assert_contains(&failure(&["inspect", text(&folder)]), "`rope_scaling` must be an object");
}
