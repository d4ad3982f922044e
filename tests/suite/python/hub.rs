//! Models made from the headers of files on a fake hub.

use std::fs;

use serde_json::{Value, json};

use super::environment::{assert_exact, python};
use crate::fake_hub::{HubTest, files};
use crate::support::{export_args, text};

#[test]
fn headers_give_the_graph_that_weights_give() {
    let test = HubTest::new();
    let whole = test.here.path().join("whole.onnx");
    for (name, target) in [
        ("owner/tiny", "onnx"),
        ("owner/tiny", "ort"),
        ("owner/tiny/original", "onnx"),
        ("owner/tiny/original", "ort"),
    ] {
        let export = |model, options: &[&str]| {
            let options = [&["--target", target], options].concat();
            test.hub.export(&export_args(name.as_ref(), model, &options))
        };
        let summary = export(&test.model, &["--headers-only"]);
        assert_eq!(summary["fingerprint"], Value::Null);
        assert_eq!(summary["weights"]["in_place"], true);
        assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > 800_000, "{summary}");
        assert!(!files(&test.folder()).iter().any(|file| file.ends_with(".safetensors")));

        assert_eq!(export(&whole, &[])["hub"]["awaited"], json!([]));
        let [found, expected] = [&test.model, &whole]
            .map(|model| python("check.py", &[text(model), "--structure-only"], &Value::Null));
        assert_eq!(found["digest"], expected["digest"]);
        let mut metadata = expected["metadata"].clone();
        for of_weights in ["data", "fingerprint"] {
            assert!(metadata.as_object_mut().unwrap().remove(of_weights).is_some());
        }
        assert_eq!(found["metadata"], metadata);
        assert_exact(&test.model, "2x40");
        fs::remove_dir_all(test.folder()).unwrap();
    }
}
