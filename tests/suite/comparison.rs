//! `benches/compare` works: everything but other exporters, on a tiny model, once.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::interpreter;

#[test]
fn exports_are_compared_and_a_page_is_written() {
    let home = tempfile::tempdir().unwrap();
    let (work, page) = (home.path().join("work"), home.path().join("page"));
    let output = Command::new(interpreter())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare"))
        .args(["--quick", "--binary", env!("CARGO_BIN_EXE_gpt-oss-export"), "--work"])
        .arg(&work)
        .arg("--page")
        .arg(&page)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "models are left in {work:?}");

    let read = |name: &str| fs::read_to_string(page.join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("benchmarks.json")).unwrap();
    let (text, chart) = (read("benchmarks.md"), read("benchmarks.svg"));
    let within = |value: &Value, bound: f64| value.as_f64().unwrap() <= bound;
    assert!(within(&results["verify"]["max"], results["verify"]["bound"].as_f64().unwrap()));
    let entries = results["ours"].as_array().unwrap();
    assert!(entries.len() >= 5, "{results}");
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        assert!(text.contains(name), "the page lacks {name}");
        assert!(chart.contains(&name.replace('`', "")), "the chart lacks {name}");
        assert!(entry["seconds"].as_f64().unwrap() > 0.0 && entry["size"].as_u64() > Some(0));
        let exact = !["int", "--accept-rounding", "--compute", "--dense"]
            .iter()
            .any(|lossy| name.contains(lossy));
        if let Some(run) = entry.get("run") {
            assert!(run["load"].as_f64().is_some(), "{name} does not run: {run}");
            assert!(!exact || within(&entry["error"]["max"], 1e-5), "{name}: {}", entry["error"]);
        }
    }
    assert!(text.contains("## What failed\n\nNothing.\n"), "{text}");
}
