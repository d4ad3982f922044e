//! What others take this project in as: a wheel and a library.

use std::path::Path;
use std::process::Command;

use crate::support::{fixture, interpreter, python_of};

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_wheel_puts_the_program_on_the_path() {
    let home = tempfile::tempdir().unwrap();
    let (wheels, environment) = (home.path().join("wheels"), home.path().join("empty"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut build = Command::new(interpreter());
    build.args(["-m", "maturin", "build", "--locked", "--profile", "dev", "--out"]).arg(&wheels);
    // What `cargo test` says of this package would make others build anew.
    let mine = ["CARGO_HOME", "CARGO_TARGET_DIR"];
    let said =
        |name: &str| name == "OUT_DIR" || name.starts_with("CARGO_") && !mine.contains(&name);
    for (name, _) in std::env::vars().filter(|(name, _)| said(name)) {
        build.env_remove(name);
    }
    // The tests' build has other features, so the library is compiled once more: as fast as can be.
    build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    succeeds(build.current_dir(sources));
    succeeds(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let wheel = std::fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
    let mut install = Command::new(python_of(&environment));
    succeeds(install.args(["-m", "pip", "install", "--quiet", "--no-index"]).arg(wheel));
    let program = python_of(&environment).with_file_name("gpt-oss-export");
    let version = succeeds(Command::new(&program).arg("--version"));
    assert!(
        version.starts_with(concat!("gpt-oss-export ", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
    let model = home.path().join("out/model.onnx");
    succeeds(
        Command::new(program).arg("--checkpoint").arg(fixture("tiny")).arg("--output").arg(&model),
    );
    assert!(model.exists());
}

#[test]
fn the_example_exports() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model.onnx");
    let built = Path::new(env!("CARGO_BIN_EXE_gpt-oss-export")).parent().unwrap();
    let example = built.join("examples").join(format!("export{}", std::env::consts::EXE_SUFFIX));
    let printed = succeeds(Command::new(example).arg(fixture("tiny")).arg(&model));
    assert!(printed.contains("model.onnx") && model.exists(), "{printed}");
}
