//! Models made from the headers of files on a fake hub.

use std::fs;

use serde_json::{Value, json};

use crate::fake_hub::{HubTest, files};
use crate::support::{assert_exact, python, text};

#[test]
fn headers_give_the_graph_that_weights_give() {
    let test = HubTest::new();
    let after = test.here.path().join("after.onnx");
    for base in [test.root(), test.original()] {
        for target in ["onnx", "ort"] {
            let options = ["--target", target, "--headers-only"];
            let summary = test.hub.export(&[&base[..], &options].concat());
            assert_eq!(summary["fingerprint"], Value::Null);
            assert_eq!(summary["weights"]["in_place"], true);
            assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > 800_000, "{summary}");
            assert!(!files(&test.folder()).iter().any(|file| file.ends_with(".safetensors")));

            let [_, name, _, before] = base;
            let whole = ["--checkpoint", name, "--output", text(&after), "--target", target];
            assert_eq!(test.hub.export(&whole)["hub"]["awaited"], json!([]));
            let found = python("structure.py", &[before, text(&after)], &Value::Null);
            assert_eq!(found["equal"], true);
            assert_eq!(found["only_in_second"], json!(["data", "fingerprint"]));
            assert_exact(&test.model, "2x40");
            fs::remove_dir_all(test.folder()).unwrap();
        }
    }
}
