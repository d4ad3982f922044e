//! What a release is made of.

use std::fs;
use std::path::Path;
use std::process::Command;

use gpt_oss_export::files::digest::sha256;

use crate::support::{Home, paths, printed, root, text};

const BINARY: &str = env!("CARGO_BIN_EXE_gpt-oss-export");

fn script(path: &Path, arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg(path).args(arguments).current_dir(folder);
    command
}

fn pack(binary: &str, folder: &Path) -> Command {
    script(&root().join(".github/pack.sh"), &[binary, "some-target", "out"], folder)
}

#[test]
fn archives_have_what_a_user_installs() {
    let home = Home::new();
    printed(&mut pack(BINARY, &home));

    let name = format!("gpt-oss-export-{}-some-target", env!("CARGO_PKG_VERSION"));
    let archive = home.join(format!("out/{name}.tar.gz"));
    let digest = sha256(&fs::read(&archive).unwrap());
    let sum = fs::read_to_string(home.join(format!("out/{name}.tar.gz.sha256"))).unwrap();
    assert_eq!(sum, format!("{digest}  {name}.tar.gz\n"));

    printed(Command::new("tar").args(["-xzf", text(&archive)]).current_dir(&*home));
    let shells = ["bash", "elvish", "fish", "powershell", "zsh"];
    let packed = home.join(&name);
    assert_eq!(paths(&packed).len(), shells.len() + 6);
    let read = |file: &str| fs::read(packed.join(file)).unwrap();
    for file in ["CHANGELOG.md", "LICENSE", "README.md"] {
        assert_eq!(read(file), fs::read(root().join(file)).unwrap(), "{file}");
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
    assert!(!pack("./gpt-oss-export", &home).output().unwrap().status.success());
    assert!(paths(&home.join("out")).is_empty());
}

#[test]
fn notes_of_a_tag_are_its_section() {
    let home = Home::new();
    fs::create_dir(home.join(".github")).unwrap();
    let notes = home.join(".github/notes.sh");
    fs::copy(root().join(".github/notes.sh"), &notes).unwrap();
    let manifest = "[package]\nrust-version = \"1.89\"\nversion = \"1.2.0\"\n";
    fs::write(home.join("Cargo.toml"), manifest).unwrap();
    let changelog = "# Changelog\n\n## [Unreleased]\n\n- Later.\n\n";
    let released = "## [1.2.0] - 2030-01-02\n\n### Added\n\n- It.\n\n## [1.1.0]\n\n- That.\n";
    let empty = "## [1.2.0] - 2030-01-02\n\n## [1.1.0]\n\n- That.\n";
    let section = "error: `CHANGELOG.md` has no section `## [1.2.0]`, or an empty one: add it\n";
    let version = "error: tag `v1.2` is not the version of `Cargo.toml`: expected `v1.2.0`\n";
    for (tag, sections, expected) in [
        ("v1.2.0", released, Ok("\n### Added\n\n- It.\n")),
        ("v1.2.0", "", Err(section)),
        ("v1.2.0", empty, Err(section)),
        ("v1.2", released, Err(version)),
        ("1.2.0", released, Err(&*version.replace("v1.2`", "1.2.0`"))),
    ] {
        fs::write(home.join("CHANGELOG.md"), format!("{changelog}{sections}")).unwrap();
        let output = script(&notes, &[tag], &home).output().unwrap();
        let said = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        let [stdout, stderr] = &said;
        let result = if output.status.success() { Ok(&**stdout) } else { Err(&**stderr) };
        assert_eq!(result, expected, "{tag} {sections}");
    }
}
