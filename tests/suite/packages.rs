//! This project as a library.

use std::path::Path;
use std::process::Command;

use crate::support::{fixture, printed};

#[test]
fn example_exports() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model.onnx");
    let built = Path::new(env!("CARGO_BIN_EXE_gpt-oss-export")).parent().unwrap();
    let example = built.join("examples").join(format!("export{}", std::env::consts::EXE_SUFFIX));
    let printed = printed(Command::new(example).arg(fixture("tiny")).arg(&model));
    assert!(printed.contains("model.onnx") && model.exists(), "{printed}");
}
