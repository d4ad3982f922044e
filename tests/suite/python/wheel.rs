//! This project as a Python wheel.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::environment::{interpreter, python_of};
use crate::support::{export_args, fixture, printed};

#[test]
fn wheel_puts_program_on_path() {
    let home = tempfile::tempdir().unwrap();
    let (wheels, environment) = (home.path().join("wheels"), home.path().join("empty"));
    let mut build = Command::new(interpreter());
    build.args(["-m", "maturin", "build", "--locked", "--profile", "dev", "--out"]).arg(&wheels);
    // Variables that `cargo test` sets for this package would make others build anew.
    for (name, _) in std::env::vars() {
        if name == "OUT_DIR" || name.starts_with("CARGO_") && name != "CARGO_HOME" {
            build.env_remove(name);
        }
    }
    // A target folder of its own, since a build would replace the binary that other tests run;
    // unoptimized, which takes the least time.
    build.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("wheel"));
    build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    printed(build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))));
    printed(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let wheel = fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
    let mut install = Command::new(python_of(&environment));
    printed(install.args(["-m", "pip", "install", "--quiet", "--no-index"]).arg(wheel));
    let program = python_of(&environment).with_file_name("gpt-oss-export");
    let version = printed(Command::new(&program).arg("--version"));
    let expected = concat!("gpt-oss-export ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(expected), "{version}");
    let model = home.path().join("out/model.onnx");
    printed(Command::new(program).args(export_args(&fixture("tiny"), &model, &[])));
    assert!(model.exists());
}
