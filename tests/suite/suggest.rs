//! Suggestions of a checkpoint near a path that is none.

use std::fs;

use crate::support::{assert_contains, copy_folder, export, export_args, failure, fixture};

#[test]
fn suggests_similar_and_enclosing_folders() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let checkpoint = home.join("gpt-oss-20b");
    copy_folder(&fixture("tiny"), &checkpoint);
    fs::create_dir(checkpoint.join("onnx")).unwrap();
    fs::create_dir(home.join("gpt-oss-20")).unwrap();
    let meant = checkpoint.display();
    for (given, expected) in [
        (
            "gpt-oss-20b/onnx",
            format!("holds no config.json; `{meant}` above it holds a checkpoint"),
        ),
        ("gpt-oss-20b/model.safetensors", format!("is a file (did you mean `{meant}`?)")),
        ("gpt-oss-20b/config.json", format!("is a file (did you mean `{meant}`?)")),
        ("gpt_oss_20b", format!("(did you mean `{meant}`?); a checkpoint is a folder")),
        ("GPT-OSS-20B-it", format!("(did you mean `{meant}`?); a checkpoint is a folder")),
        ("llama", format!("there is no folder `{}`; a checkpoint", home.join("llama").display())),
        ("gpt-oss-20", "holds no config.json".to_owned()),
    ] {
        let sentence = failure(&export_args(&home.join(given), &home.join("m.onnx"), &[]));
        assert_contains(&sentence, &expected);
    }
}

#[test]
fn suggests_original_folder_of_released_repository() {
    let home = tempfile::tempdir().unwrap();
    let (original, model) = (home.path().join("original"), home.path().join("m.onnx"));
    copy_folder(&fixture("tiny"), &original);
    for lacking in ["config.json", "model.safetensors"] {
        let sentence = failure(&export_args(home.path(), &model, &[]));
        assert!(sentence.contains(&format!("holds no {lacking}; `")), "{sentence}");
        assert!(sentence.contains("original` holds a checkpoint with the weights as released"));
        fs::copy(fixture("tiny-hf/config.json"), home.path().join("config.json")).unwrap();
    }
    export(&export_args(&original, &model, &[]));
}
