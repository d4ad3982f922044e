//! What `inspect` says, against what is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::derived::in_folder;
use crate::support::{export, failure, fixture, folder_with_tiny, python, run, text};

/// Its status says whether all is there.
fn inspect(path: &Path, options: &[&str]) -> Value {
    let output = run(&[&["inspect", text(path), "--json"], options].concat());
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), seen["whole"] != false, "{error}");
    seen
}

/// What is printed for people.
fn report(path: &Path, options: &[&str]) -> String {
    let output = run(&[&["inspect", text(path)], options].concat());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn lists_tensors_of_a_checkpoint_with_their_bytes() {
    let home = folder_with_tiny();
    let folder = home.path().join("tiny");
    let summary =
        export(&["--checkpoint", text(&folder), "--output", text(&home.path().join("m.onnx"))]);
    let seen = inspect(&folder, &["--tensors", "*"]);
    assert_eq!(seen["kind"], "checkpoint");
    assert_eq!(seen["fingerprint"], summary["fingerprint"]);
    assert_eq!(
        (&seen["bytes_to_write"], &seen["bytes"]),
        (&json!(0), &summary["weights"]["bytes_referenced"])
    );
    let totals = seen["totals"].as_array().unwrap();
    assert_eq!(
        totals.iter().map(|total| total["bytes"].as_u64().unwrap()).sum::<u64>(),
        seen["bytes"]
    );

    // Every place holds the tensor that the safetensors crate finds there.
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = seen["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), whole.len());
    for tensor in tensors {
        let name = tensor["stored_as"].get(0).unwrap_or(&tensor["name"]).as_str().unwrap();
        let place = &tensor["places"][0];
        let (offset, length) = (
            place["offset"].as_u64().unwrap() as usize,
            place["length"].as_u64().unwrap() as usize,
        );
        assert_eq!(&bytes[offset..][..length], whole.tensor(name).unwrap().data(), "{name}");
        assert_eq!(place["file"], "model.safetensors");
    }
}

#[test]
fn filters_tensors_by_canonical_and_stored_names() {
    let count = |pattern| {
        inspect(&fixture("tiny"), &["--tensors", pattern])["tensors"].as_array().unwrap().len()
    };
    assert_eq!(count("block.1.attn.qkv.*"), 2);
    assert_eq!(count("layers.1.attn.qkv.*"), 2);
    assert_eq!(count("layers.?.mlp.router.bias"), 3);
    assert_eq!(count("qkv"), 0);
    assert_eq!(inspect(&fixture("tiny"), &[])["tensors"], json!([]));
    let sentence = failure(&["inspect", text(&fixture("tiny")), "--tensors", "a***"]);
    assert!(sentence.contains("invalid pattern \"a***\" for tensor names"), "{sentence}");
}

#[test]
fn counts_bytes_that_cannot_be_in_place() {
    for (layout, in_place) in [("hf", true), ("bf16", true), ("split", false), ("linears", false)] {
        let home = in_folder(layout);
        let seen = inspect(&home.path().join("checkpoint"), &[]);
        let experts =
            seen["totals"].as_array().unwrap().iter().find(|total| total["kind"] == "experts");
        let expected = if in_place { json!(0) } else { experts.unwrap()["bytes"].clone() };
        assert_eq!(seen["bytes_to_write"], expected, "{layout}");
        assert_eq!(seen["obstacle"].is_null(), in_place);
    }
}

#[test]
fn reports_why_a_target_is_not_supported() {
    for (name, fits) in [("tiny", true), ("tiny-1-kv", false)] {
        let seen = inspect(&fixture(name), &[]);
        let [onnx, ort] = &seen["targets"].as_array().unwrap()[..] else { panic!("{seen}") };
        assert!(onnx["refused"].is_null());
        assert_eq!(ort["refused"].is_null(), fits);
        let said = report(&fixture(name), &[]);
        let expected = if fits {
            "ort: supported; needs onnxruntime 1.32"
        } else {
            "ort: not supported: target `ort` does not support a head_dim of 20"
        };
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn describes_staged_and_other_safetensors_files() {
    let home = in_folder("bf16");
    let (folder, staged) = (home.path().join("checkpoint"), home.path().join("staged.safetensors"));
    let stage = [
        "--checkpoint",
        text(&folder),
        "--save-weights",
        text(&staged),
        "--skip-onnx",
        "--experts",
        "mxfp4",
    ];
    let summary = export(&stage);
    let seen = inspect(&staged, &["--tensors", "*.down.*"]);
    assert_eq!((&seen["kind"], &seen["fingerprint"]), (&json!("weights"), &summary["fingerprint"]));
    assert_eq!(seen["experts"]["origin"], "bf16");
    assert_eq!(seen["tensors"].as_array().unwrap().len(), 9);
    assert!(report(&staged, &[]).contains("experts     mxfp4, from bf16, lossless"));

    let one = folder.join("model.safetensors");
    let seen = inspect(&one, &["--tensors", "*.sinks"]);
    assert_eq!((&seen["kind"], seen["tensors"].as_array().unwrap().len()), (&json!("tensors"), 3));
}

/// A model in a folder of its own, with its weights beside it.
fn copied(home: &Path, options: &[&str]) -> std::path::PathBuf {
    let model = home.join("out/model.onnx");
    let base =
        ["--checkpoint", text(&fixture("tiny")), "--output", text(&model)].map(str::to_owned);
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    export(&[&base[..], options].concat());
    model
}

#[test]
fn agrees_with_onnx_on_models() {
    let home = tempfile::tempdir().unwrap();
    for options in
        [&[][..], &["--functions"], &["--target", "ort"], &["--kv-cache", "--seq-len", "4"]]
    {
        let model = copied(home.path(), options);
        let seen = inspect(&model, &["--tensors", "*"]);
        let expected = python("inspected.py", &[text(&model)], &Value::Null);
        for key in
            ["ir_version", "opsets", "properties", "inputs", "outputs", "functions", "operators"]
        {
            assert_eq!(seen[key], expected[key], "{options:?} {key}");
        }
        let places = |tensor: &Value| {
            (tensor["name"].clone(), tensor["shape"].clone(), tensor["places"].clone())
        };
        let found: Vec<_> = seen["tensors"].as_array().unwrap().iter().map(places).collect();
        let wanted: Vec<_> = expected["tensors"].as_array().unwrap().iter().map(places).collect();
        assert_eq!(found, wanted);
        assert_eq!((&seen["whole"], &seen["wrong"]), (&json!(true), &json!([])));
    }
}

#[test]
fn reports_missing_and_short_data() {
    let home = tempfile::tempdir().unwrap();
    let model = copied(home.path(), &[]);
    let seen = inspect(&model, &[]);
    let weights = model.with_file_name(seen["files"][0]["file"].as_str().unwrap());
    assert!(
        report(&model, &[]).contains("weights    complete, as far as lengths and samples tell")
    );
    let problem = |expected: &str| {
        let seen = inspect(&model, &[]);
        let said = seen["files"][0]["problem"].as_str().unwrap().to_owned();
        assert!(said.contains(expected) && seen["whole"] == false, "{said}");
        assert!(report(&model, &[]).contains("NOT complete"));
    };
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    problem(&format!(
        "it has {} bytes, and the model reads up to {}",
        bytes.len() - 1,
        bytes.len()
    ));
    #[cfg(unix)]
    {
        let elsewhere = home.path().join("elsewhere");
        fs::rename(&weights, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &weights).unwrap();
        problem("it is a symbolic link");
    }
    fs::remove_file(&weights).unwrap();
    problem("it does not exist");
    fs::create_dir(&weights).unwrap();
    problem("it is not a regular file");
}

/// onnxruntime runs models whose data are links, where others refuse them: in a folder as
/// Hugging Face's cache has them, and with several names.
#[cfg(unix)]
#[test]
fn warns_of_linked_data_that_onnxruntime_follows() {
    let home = tempfile::tempdir().unwrap();
    let model = copied(home.path(), &[]);
    let weights = model.with_file_name(inspect(&model, &[])["files"][0]["file"].as_str().unwrap());
    let (blobs, snapshot) = (home.path().join("blobs"), home.path().join("snapshot"));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir(&snapshot).unwrap();
    for file in [&model, &weights] {
        let name = file.file_name().unwrap();
        fs::rename(file, blobs.join(name)).unwrap();
        std::os::unix::fs::symlink(blobs.join(name), snapshot.join(name)).unwrap();
    }
    let runs = |model: &Path, warning: &str| {
        let seen = inspect(model, &[]);
        assert_eq!((&seen["whole"], &seen["files"][0]["problem"]), (&json!(true), &Value::Null));
        let said = seen["files"][0]["warning"].as_str().unwrap();
        assert!(said.contains(warning), "{said}");
        assert!(report(model, &[]).contains("usable by onnxruntime alone: it "));
        let tiny = fixture("tiny");
        crate::python::verify::passes(model, &tiny, &[]);
    };
    runs(&snapshot.join(model.file_name().unwrap()), "it is a symbolic link");
    let real = blobs.join(model.file_name().unwrap());
    fs::hard_link(blobs.join(weights.file_name().unwrap()), home.path().join("other")).unwrap();
    runs(&real, "it has several hard links");
}

/// A model in place: another fine-tune, of equal headers and sizes, in its source's place.
#[test]
fn reports_exchanged_data() {
    let home = crate::support::folder_with_tiny();
    let (source, model) = (home.path().join("tiny/model.safetensors"), home.path().join("m.onnx"));
    export(&["--checkpoint", text(&home.path().join("tiny")), "--output", text(&model)]);
    assert_eq!(inspect(&model, &[])["whole"], true);
    let released = fs::read(&source).unwrap();
    let mut tuned = released.clone();
    *tuned.last_mut().unwrap() ^= 0x80;
    fs::write(&source, &tuned).unwrap();
    let seen = inspect(&model, &[]);
    assert_eq!(
        (&seen["files"][0]["problem"], &seen["whole"]),
        (&json!("it was changed since the export: restore it, or export again"), &json!(false))
    );
    fs::write(&source, &released).unwrap();
    assert_eq!(inspect(&model, &[])["whole"], true);
    // What opens for ever is not opened.
    #[cfg(unix)]
    {
        fs::remove_file(&source).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&source).status().unwrap().success());
        let seen = inspect(&model, &[]);
        assert_eq!(seen["files"][0]["problem"], "it is not a regular file");
    }
}

#[test]
fn describes_models_of_other_programs() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("other.onnx");
    python("foreign.py", &[text(&model)], &Value::Null);
    let seen = inspect(&model, &["--tensors", "*"]);
    let operators: BTreeMap<String, u64> =
        serde_json::from_value(seen["operators"].clone()).unwrap();
    assert_eq!(
        operators,
        [
            ("Add".into(), 1),
            ("Constant".into(), 2),
            ("If".into(), 1),
            ("Neg".into(), 2),
            ("org.example.Odd".into(), 1)
        ]
        .into()
    );
    assert_eq!(seen["inputs"], json!([{"name": "x", "dtype": "ONNX type 11", "shape": ["N", 2]}]));
    // One is too short for its shape, and one leaves the folder.
    let wrong = seen["wrong"].as_array().unwrap();
    assert!(
        wrong.len() == 1
            && wrong[0].as_str().unwrap().contains("`short` f32 [4] refers to 12 bytes"),
        "{wrong:?}"
    );
    let outside =
        seen["files"].as_array().unwrap().iter().find(|file| file["file"] == "../up.bin").unwrap();
    assert!(outside["problem"].as_str().unwrap().contains("outside the model's folder"));
    // Others are in subgraphs, attributes and functions.
    let places = seen["tensors"].as_array().unwrap().iter();
    let places = places.map(|tensor| (tensor["name"].clone(), tensor["places"][0]["file"].clone()));
    let places: Vec<_> = places.collect();
    for (name, file) in [
        ("in_a", "branch.bin"),
        ("in_b", "branch.bin"),
        ("attribute", "attribute.bin"),
        ("held", "function.bin"),
    ] {
        assert!(places.contains(&(json!(name), json!(file))), "{places:?}");
    }
    // What others wrote does not speak to the terminal.
    let text = report(&model, &[]);
    assert!(text.contains(r"by red \u{1b}[31m") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn refuses_other_files() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, expected) in [
        (home.path().join("none"), "there is nothing at `"),
        (path("a.txt", b""), "is not a checkpoint folder, a .safetensors or an .onnx file"),
        (path("a.gguf", b""), "is GGUF, llama.cpp's format: use"),
        (path("empty.onnx", b""), "is not an ONNX model: it has no graph"),
        (path("text.onnx", b"hello, this is text"), "is not an ONNX model: "),
        (path("a.safetensors", b"{}"), "has 2 bytes, too few for a SafeTensors file"),
    ] {
        let sentence = failure(&["inspect", text(&path)]);
        assert!(sentence.contains(expected), "{sentence}");
    }
}

#[test]
fn describes_the_20b() {
    let home = tempfile::tempdir().unwrap();
    let total = crate::sizes::sparse(home.path(), 24, 32, 1);
    let seen = inspect(home.path(), &[]);
    assert_eq!((&seen["bytes"], &seen["bytes_to_write"]), (&json!(total), &json!(0)));
    let text = report(home.path(), &[]);
    assert!(
        text.contains("model       24 layers, hidden size 2,880, vocabulary 201,088\n"),
        "{text}"
    );
    assert!(text.contains("experts   32 of size 2,880, 4 for each token"), "{text}");
    assert!(text.contains("window 128 in 12 of 24"), "{text}");
}
