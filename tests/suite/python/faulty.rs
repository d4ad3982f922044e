//! A binary with faults in the exporter, of which exporter and byte comparison share each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::environment::onnxruntime;
use super::{adapter_faults, reader_faults};
use crate::support::{Home, printed, root, text};

/// A fault to plant.
pub struct Fault {
    pub name: &'static str,
    /// A file below `src`, and a piece of it.
    pub file: &'static str,
    pub right: &'static str,
    /// What takes its place, with [`PLANTED`] as condition.
    pub wrong: &'static str,
}

/// Stands for the condition under which a fault takes effect.
const PLANTED: &str = "PLANTED";

fn all_faults() -> impl Iterator<Item = &'static Fault> {
    let of_adapters = adapter_faults::FAULTS.iter().map(|(fault, ..)| fault);
    reader_faults::FAULTS.iter().map(|(fault, ..)| fault).chain(of_adapters)
}

/// Copies files that are not there yet or differ, so that a second build has little to do.
fn copy(from: &Path, to: &Path, edit: &impl Fn(&Path, String) -> String) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to, edit);
            continue;
        }
        let text = edit(&from, fs::read_to_string(&from).unwrap());
        if fs::read_to_string(&to).ok().as_ref() != Some(&text) {
            fs::write(to, text).unwrap();
        }
    }
}

/// A binary with all faults, of which the variable `PLANTED` chooses one.
fn faulty_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let root = root();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty");
        let target = folder.join("../..");
        let source = root.join("src");
        copy(&source, &folder.join("src"), &|path, text| {
            let of_file = all_faults().filter(|it| path == source.join(it.file));
            let mut faulty = of_file.fold(text, |text, Fault { name, right, wrong, .. }| {
                assert_eq!(text.matches(right).count(), 1, "{name}: `{right}` in `{}`", path.display());
                text.replace(right, &wrong.replace(PLANTED, &format!("crate::planted({name:?})")))
            });
            if path.ends_with("lib.rs") {
                faulty += "\n#[allow(missing_docs)]\npub fn planted(name: &str) -> bool {\n    std::env::var(\"PLANTED\").is_ok_and(|it| it == name)\n}\n";
            }
            faulty
        });
        copy(&root.join("proto"), &folder.join("proto"), &|_, text| text);
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let manifest = manifest.replacen("name = \"gpt-oss-export\"", "name = \"faulty\"", 1);
        let members = manifest.lines().filter(|line| !line.starts_with("members = "));
        let mut manifest = members.collect::<Vec<_>>().join("\n");
        manifest += "\n[lib]\nname = \"gpt_oss_export\"\n[[bin]]\nname = \"faulty\"\npath = \"src/main.rs\"\n";
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--bin", "faulty"]).current_dir(&folder);
        // It runs for seconds; optimizing it takes longer than that saves.
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_TARGET_DIR", &target);
        printed(&mut cargo);
        target.join("debug").join(format!("faulty{}", std::env::consts::EXE_SUFFIX))
    })
}

pub fn faulty(fault: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(faulty_binary());
    command.args(arguments).env("PLANTED", fault);
    command
}

/// The report of `verify` by the binary with a fault, of `model.onnx` and its checkpoint.
pub fn verified(fault: &str, home: &Home, options: &[&str]) -> Value {
    let (checkpoint, model) = (home.checkpoint(), home.join("model.onnx"));
    let base = ["verify", text(&model), "--checkpoint", text(&checkpoint), "--json"];
    let texts = ["--onnxruntime", text(onnxruntime()), "--tokens", "24"];
    let output = faulty(fault, &[&base[..], &texts, options].concat()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that logits tell a fault. Both sides of the comparison of weights share it.
#[track_caller]
pub fn assert_found(report: &Value, context: &str) {
    assert_eq!(report["passed"], false, "{context}: {report}");
    assert_eq!(report["weights"]["different"], json!([]), "{context}");
}
