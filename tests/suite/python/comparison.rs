//! `benches/compare` on a tiny model and without other exporters.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::environment::interpreter;
use crate::support::{printed, text};

#[test]
fn compare_script_measures_all_exports_and_writes_tables() {
    let home = tempfile::tempdir().unwrap();
    let (work, page) = (home.path().join("work"), home.path().join("page"));
    fs::create_dir(&page).unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(repository.join("docs/benchmarks.md"), page.join("benchmarks.md")).unwrap();
    let mut script = Command::new(interpreter());
    script.arg(repository.join("benches/compare"));
    script.args(["--quick", "--binary", env!("CARGO_BIN_EXE_gpt-oss-export")]);
    printed(script.args(["--work", text(&work), "--page", text(&page)]));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "models are left in {work:?}");

    let read = |name: &str| fs::read_to_string(page.join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("benchmarks.json")).unwrap();
    let text = read("benchmarks.md");
    let within = |value: &Value, bound: f64| value.as_f64().unwrap() <= bound;
    assert!(within(&results["verify"]["max"], results["verify"]["bound"].as_f64().unwrap()));
    let entries = results["ours"].as_array().unwrap();
    assert!(entries.len() >= 5, "{results}");
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        assert!(text.contains(&format!("| {name} |")), "the tables lack {name}");
        assert!(entry["seconds"].as_f64().unwrap() > 0.0 && entry["size"].as_u64() > Some(0));
        let exact = !name.contains("int");
        if let Some(run) = entry.get("run") {
            assert!(run["load"].as_f64().is_some(), "{name} does not run: {run}");
            assert!(!exact || within(&entry["error"]["max"], 1e-5), "{name}: {}", entry["error"]);
        }
    }
    assert!(text.contains("| model | step | error |\n| --- | --- | --- |\n<!-- end -->"), "{text}");
}
