//! A path that is nearly right is told with the one that was meant.

use std::fs;

use crate::support::{copy_folder, failure, fixture, text};

#[test]
fn a_path_that_is_nearly_right() {
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
        ("gpt_oss_20b", format!("(did you mean `{meant}`?): --checkpoint takes the folder")),
        ("GPT-OSS-20B-it", format!("(did you mean `{meant}`?): --checkpoint takes the folder")),
        ("llama", format!("there is no folder `{}`: --checkpoint", home.join("llama").display())),
        ("gpt-oss-20", "holds no config.json".to_owned()),
    ] {
        let (path, model) = (home.join(given), home.join("m.onnx"));
        let found = failure(&["--checkpoint", text(&path), "--output", text(&model)]);
        assert!(found.contains(&expected), "{found}\nlacks: {expected}");
    }
}
