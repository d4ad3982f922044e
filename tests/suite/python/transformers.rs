//! Configs that the newest transformers writes.

use std::fs;

use super::environment::newest_transformers;
use crate::support::{Home, export, fixture, run, text};

/// With every key or those that are no defaults, and with keys of the base class set.
#[test]
fn whole_configs_are_read_without_ignored_keys() {
    let (home, plain) = (Home::with("tiny-hf"), fixture("tiny-hf"));
    let written = newest_transformers("whole_configs.py", &[text(&plain), text(&home)]);
    let expected = &export(&["inspect", text(&plain)])["config"];
    let files = written["files"].as_array().unwrap();
    assert_eq!(files.len(), 6);
    for file in files {
        let (checkpoint, file) = (home.checkpoint(), file.as_str().unwrap());
        fs::copy(file, checkpoint.join("config.json")).unwrap();
        let output = run(&["inspect", text(&checkpoint), "--json"]);
        let [found, error] =
            [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        let version = &written["version"];
        assert!(output.status.success(), "{file} of transformers {version}: {error}");
        let found: serde_json::Value = found.parse().unwrap();
        assert_eq!(&found["config"], expected, "{file} of transformers {version}");
    }
}
