//! Adapters that the newest PEFT saves.

use serde_json::json;

use super::environment::{assert_steps_of, newest_peft};
use crate::layout_fixtures::in_folder;
use crate::support::text;

#[test]
fn adapters_of_the_newest_peft_are_exact() {
    let home = in_folder("bf16");
    let saved = newest_peft("save_adapters.py", &[text(&home.checkpoint()), text(&home)]);
    let adapters = saved["adapters"].as_object().unwrap();
    assert!(adapters.len() >= 10, "{saved}");
    let ways = json!([
        {"rows": [0, 1], "lengths": [40, 40]},
        {"rows": [0, 1], "lengths": [20, 7], "padding": "left", "steps": 12},
    ]);
    for (name, files) in adapters {
        let folder = files["folder"].as_str().unwrap();
        let mut models = Vec::new();
        for (how, target) in [("inline", "onnx"), ("inline", "ort"), ("merge", "onnx")] {
            let options =
                ["--kv-cache", "--adapter", folder, "--adapter-as", how, "--target", target];
            models.push(home.export(&format!("{name}-{how}-{target}"), &options).0);
        }
        println!("PEFT {}: {name}", saved["version"]);
        assert_steps_of(2e-5, &models, std::slice::from_ref(files), json!({"ways": ways}));
    }
}
