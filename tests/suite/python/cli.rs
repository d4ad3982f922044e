//! What the summary suggests to type.

use std::process::Command;

use super::environment::interpreter;
use crate::support::{binary, export_args, fixture, printed};

#[test]
fn printed_example_runs_the_model() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("it's \"a\" model é.onnx");
    for options in [
        &[][..],
        &["--batch-size", "2", "--seq-len", "5"],
        &["--batch-size", "3", "--kv-cache"],
        &["--last-logits"],
        &["--target", "ort"],
    ] {
        let summary = printed(&mut binary(&export_args(&fixture("tiny"), &model, options)));
        let example = summary.lines().last().unwrap().strip_prefix("try      ").unwrap();
        let program = format!("import numpy, onnxruntime; {example}");
        printed(Command::new(interpreter()).args(["-c", &program]));
    }
}
