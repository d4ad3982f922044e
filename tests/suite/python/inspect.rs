//! What `inspect` reports of models, against onnx and onnxruntime.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::environment::python;
use super::verify::passes;
use crate::inspect::{copied_model, data_file, inspect, printed_report};
use crate::support::{Home, assert_contains, fixture, text};

#[test]
fn agrees_with_onnx_on_models() {
    let home = Home::new();
    for options in
        [&[][..], &["--functions"], &["--target", "ort"], &["--kv-cache", "--seq-len", "4"]]
    {
        let model = copied_model(&home, options);
        let report = inspect(&model, &["--tensors", "*"]);
        let expected = python("inspected.py", &[text(&model)], &Value::Null);
        for key in
            ["ir_version", "opsets", "properties", "inputs", "outputs", "functions", "operators"]
        {
            assert_eq!(report[key], expected[key], "{options:?} {key}");
        }
        let [found, wanted] = [&report, &expected].map(|report| {
            let tensors = report["tensors"].as_array().unwrap().iter();
            let tensors = tensors.map(|it| ["name", "shape", "places"].map(|key| it[key].clone()));
            tensors.collect::<Vec<_>>()
        });
        assert_eq!(found, wanted);
        assert_eq!((&report["whole"], &report["wrong"]), (&json!(true), &json!([])));
    }
}

/// Other readers refuse data that is a link: in a folder as Hugging Face's cache has them, and
/// with several names.
#[cfg(unix)]
#[test]
fn warns_of_linked_data_that_onnxruntime_follows() {
    let home = Home::new();
    let model = copied_model(&home, &[]);
    let weights = data_file(&model);
    let [blobs, snapshot] = ["blobs", "snapshot"].map(|name| home.join(name));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir(&snapshot).unwrap();
    for file in [&model, &weights] {
        let name = file.file_name().unwrap();
        fs::rename(file, blobs.join(name)).unwrap();
        std::os::unix::fs::symlink(blobs.join(name), snapshot.join(name)).unwrap();
    }
    let runs_with_warning = |model: &Path, expected: &str| {
        let report = inspect(model, &[]);
        let file = &report["files"][0];
        assert_eq!((&report["whole"], &file["problem"]), (&json!(true), &Value::Null));
        assert_contains(file["warning"].as_str().unwrap(), expected);
        assert!(printed_report(model).contains("usable by onnxruntime alone: it "));
        passes(model, &fixture("tiny"), &[]);
    };
    runs_with_warning(&snapshot.join("model.onnx"), "it is a symbolic link");
    let data = blobs.join(weights.file_name().unwrap());
    fs::hard_link(data, home.join("other")).unwrap();
    runs_with_warning(&blobs.join("model.onnx"), "it has several hard links");
}

#[test]
fn describes_models_of_other_programs() {
    let home = Home::new();
    let model = home.join("other.onnx");
    python("foreign.py", &[text(&model)], &Value::Null);
    let report = inspect(&model, &["--tensors", "*"]);
    let operators = serde_json::from_value(report["operators"].clone()).unwrap();
    let expected = [("Add", 1), ("Constant", 2), ("If", 1), ("Neg", 2), ("org.example.Odd", 1)];
    assert_eq!(BTreeMap::from(expected.map(|(op, count)| (op.to_owned(), count))), operators);
    let inputs = json!([{"name": "x", "dtype": "ONNX type 11", "shape": ["N", 2]}]);
    assert_eq!(report["inputs"], inputs);
    // A tensor is too short for its shape, and one file is outside the folder.
    let [wrong] = &report["wrong"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_contains(wrong.as_str().unwrap(), "`short` f32 [4] refers to 12 bytes");
    let mut files = report["files"].as_array().unwrap().iter();
    let outside = files.find(|file| file["file"] == "../up.bin").unwrap();
    assert_contains(outside["problem"].as_str().unwrap(), "outside the model's folder");
    // Tensors of subgraphs, attributes and functions are found.
    let tensors = report["tensors"].as_array().unwrap().iter();
    let found: Vec<_> = tensors.map(|it| [&it["name"], &it["places"][0]["file"]]).collect();
    let branch = ["in_a", "in_b"].map(|name| [name, "branch.bin"]);
    for tensor in [branch[0], branch[1], ["attribute", "attribute.bin"], ["held", "function.bin"]] {
        assert!(found.iter().any(|it| *it == tensor), "{found:?}");
    }
    // Escape sequences of others do not reach the terminal.
    let printed = printed_report(&model);
    assert!(printed.contains(r"by red \u{1b}[31m") && !printed.contains('\u{1b}'), "{printed}");
}
