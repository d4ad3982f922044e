//! What a release is made of.

use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::support::{Home, contents, printed, text};

const BINARY: &str = env!("CARGO_BIN_EXE_gpt-oss-export");

fn script(name: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".github").join(name));
    command
}

#[test]
fn archives_have_what_a_user_installs() {
    let home = Home::new();
    printed(script("pack.sh").args([BINARY, "some-target", "out"]).current_dir(&*home));

    let name = format!("gpt-oss-export-{}-some-target", env!("CARGO_PKG_VERSION"));
    let archive = home.join(format!("out/{name}.tar.gz"));
    let digest = Sha256::digest(fs::read(&archive).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let sum = fs::read_to_string(home.join(format!("out/{name}.tar.gz.sha256"))).unwrap();
    assert_eq!(sum, format!("{digest}  {name}.tar.gz\n"));

    printed(Command::new("tar").args(["-xzf", text(&archive)]).current_dir(&*home));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shells = ["bash", "elvish", "fish", "powershell", "zsh"];
    let packed = home.join(&name);
    assert_eq!(contents(&packed).len(), shells.len() + 6);
    let read = |file: &str| fs::read(packed.join(file)).unwrap();
    for file in ["CHANGELOG.md", "LICENSE", "README.md"] {
        assert_eq!(read(file), fs::read(root.join(file)).unwrap(), "{file}");
    }
    let installed = packed.join("gpt-oss-export");
    let run = |arguments: &[&str]| printed(Command::new(&installed).args(arguments));
    assert!(run(&["--version"]).starts_with("gpt-oss-export "));
    assert_eq!(read("gpt-oss-export.1"), run(&["man"]).into_bytes());
    for shell in shells {
        let file = format!("completions/gpt-oss-export.{shell}");
        assert_eq!(read(&file), run(&["completions", shell]).into_bytes(), "{shell}");
    }
}

#[test]
fn a_binary_that_does_not_run_leaves_no_archive() {
    let home = Home::new();
    fs::write(home.join("gpt-oss-export"), "no program").unwrap();
    let mut pack = script("pack.sh");
    pack.args(["./gpt-oss-export", "some-target", "out"]).current_dir(&*home);
    assert!(!pack.output().unwrap().status.success());
    assert!(contents(&home.join("out")).is_empty());
}
