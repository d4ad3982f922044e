//! The house has floors, and imports point downward only.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor, as in `docs/architecture.md`.
const FLOORS: [&[&str]; 8] = [
    &["error", "display"],
    &["tensor", "progress", "files", "background"],
    &["graph", "container", "publish", "runtime"],
    &["weights", "onnx", "tokenizer"],
    &["checkpoint"],
    &["model", "genai", "hub", "reference", "transformers_js"],
    &["export", "inspect", "verify"],
    &["main", "cli", "lib"],
];

/// The one module that may name a crate.
const OWNERS: [(&str, &str); 24] = [
    ("prost::", "onnx"),
    ("safetensors::", "container"),
    ("tempfile::", "publish"),
    ("rayon::", "weights reference"),
    ("ndarray::", "reference verify"),
    // The model has a part of the same name.
    ("::ort::", "runtime model"),
    ("fastrand::", "verify"),
    ("glob::", "checkpoint inspect"),
    ("half::", "tensor runtime"),
    ("fearless_simd", "tensor"),
    ("sha1::", "files"),
    ("sha2::", "files"),
    ("hf_hub::", "hub"),
    ("ureq::", "hub"),
    ("clap::", "cli main"),
    ("clap_complete::", "cli"),
    ("clap_mangen::", "cli"),
    ("bytesize::", "cli"),
    ("indicatif::", "cli"),
    ("anyhow::", "cli main"),
    ("ctrlc::", "cli"),
    ("fs4::", "publish"),
    ("strsim::", "checkpoint"),
    (
        "serde_json::",
        "files onnx container checkpoint weights genai hub transformers_js verify cli",
    ),
];

const LONGEST_FILE: usize = 400;

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let read = |path: PathBuf| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        let module = Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (module, path, text)
    };
    files.into_iter().map(read).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

fn floor(module: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.contains(&module));
    found.unwrap_or_else(|| {
        panic!("module `{module}` has no floor: give it one, here and in docs/architecture.md")
    })
}

#[test]
fn imports_point_downward() {
    let mut imports = 0;
    for (module, path, text) in sources() {
        for line in text.lines() {
            for rest in line.split("crate::").skip(1).chain(line.split("gpt_oss_export::").skip(1))
            {
                let named = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                if named == module {
                    continue;
                }
                assert!(
                    floor(named) < floor(&module),
                    "{}: floor {} imports floor {}: {line}",
                    path.display(),
                    floor(&module),
                    floor(named)
                );
                imports += 1;
            }
        }
    }
    assert!(imports > 30, "only {imports} imports were found: does this test still read them?");
}

#[test]
fn each_dependency_has_one_owner() {
    for (module, path, text) in sources() {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (name, owner) in OWNERS {
                let named = line.contains(name)
                    && !line.contains(&format!("_{name}"))
                    && !line.contains(&format!(".{name}"));
                assert!(
                    !named || owner.split(' ').any(|owner| owner == module),
                    "{}: {name} belongs to `{owner}`: {line}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn files_are_short() {
    let mut files = Vec::new();
    ["src", "tests"]
        .iter()
        .for_each(|root| walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root), &mut files));
    for path in
        files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
    {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(
            lines <= LONGEST_FILE,
            "{} has {lines} lines: a room that wants a wall",
            path.display()
        );
    }
}
