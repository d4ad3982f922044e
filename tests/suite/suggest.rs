//! Suggestions for paths that are nearly a checkpoint's.

use std::fs;

use crate::support::{copy_folder, failure, fixture, run, text};

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
        let (path, model) = (home.join(given), home.join("m.onnx"));
        let found = failure(&["--checkpoint", text(&path), "--output", text(&model)]);
        assert!(found.contains(&expected), "{found}\nlacks: {expected}");
    }
}

#[test]
fn suggests_original_folder_of_a_released_repository() {
    let home = tempfile::tempdir().unwrap();
    let (original, model) = (home.path().join("original"), home.path().join("m.onnx"));
    copy_folder(&fixture("tiny"), &original);
    for lacking in ["config.json", "model.safetensors"] {
        let sentence = failure(&["--checkpoint", text(home.path()), "--output", text(&model)]);
        assert!(sentence.contains(&format!("holds no {lacking}; `")), "{sentence}");
        assert!(sentence.contains("original` holds a checkpoint with the weights as released"));
        fs::copy(fixture("tiny-hf/config.json"), home.path().join("config.json")).unwrap();
    }
    assert!(run(&["--checkpoint", text(&original), "--output", text(&model)]).status.success());
}
