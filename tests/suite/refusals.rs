//! Refusals: one sentence that says what to do, and nothing is written.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{contents, copy_folder, failure, fixture, folder_with_tiny, run, text};

/// A folder with an edited copy of the tiny checkpoint.
pub fn broken(edit: impl FnOnce(&Path)) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture("tiny"), home.path());
    edit(home.path());
    home
}

pub fn edit_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(path, config.replace(from, to)).unwrap();
}

/// Edits the header of the SafeTensors file; its length must not change.
pub fn edit_header(folder: &Path, from: &str, to: &str) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    assert!(header.contains(from), "{header}");
    let edited = header.replace(from, to);
    assert_eq!(edited.len(), length);
    bytes[8..8 + length].copy_from_slice(edited.as_bytes());
    fs::write(path, bytes).unwrap();
}

pub fn write_index(folder: &Path, map: &Value) {
    fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .unwrap();
}

#[test]
fn refuses_impossible_requests_before_writing() {
    let home = folder_with_tiny();
    let (tiny, out) = (home.path().join("tiny"), home.path().join("out"));
    let model = out.join("model.onnx");
    for (options, expected) in [
        (["--layers", "4"], "cannot keep 4 layers: the checkpoint has 3"),
        (["--external-data", "in-place"], "it is outside the model's folder"),
    ] {
        let base = ["--checkpoint", text(&tiny), "--output", text(&model)];
        let sentence = failure(&[&base[..], &options].concat());
        assert!(sentence.contains(expected), "{sentence}");
        assert!(!out.exists());
    }
}

#[test]
fn names_unsupported_formats_and_what_to_use_instead() {
    type Make = fn(&Path);
    let touch = |path: PathBuf| fs::write(path, "").unwrap();
    let adapter: Make = |folder| {
        fs::write(folder.join("adapter_config.json"), "{}").unwrap();
        fs::write(folder.join("adapter_model.safetensors"), "").unwrap();
    };
    let cases: [(&str, Make, &str); 8] = [
        ("", adapter, "adapter_config.json` is a LoRA adapter: merge it into its base model"),
        (
            "",
            |folder| {
                copy_folder(&fixture("tiny"), folder);
                fs::write(folder.join("adapter_config.json"), "{}").unwrap();
            },
            "adapter_config.json` is a LoRA adapter beside a whole model: merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result, or move it away if this model is the result",
        ),
        (
            "",
            |folder| {
                fs::copy(fixture("tiny-hf/config.json"), folder.join("config.json")).unwrap();
                fs::write(folder.join("pytorch_model-00001-of-00002.bin"), "").unwrap();
            },
            "pytorch_model-00001-of-00002.bin` is PyTorch's format, which can run code when it is read: load it in transformers and save it as SafeTensors",
        ),
        (
            "x-MXFP4.gguf",
            |_| {},
            "x-MXFP4.gguf` is GGUF, llama.cpp's format: use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b",
        ),
        ("", |folder| fs::write(folder.join("x.gguf"), "").unwrap(), "x.gguf` is GGUF"),
        (
            "",
            |folder| fs::write(folder.join("model.bin"), "").unwrap(),
            "model.bin` is OpenAI's format for Metal: use the same model in SafeTensors",
        ),
        // Files that only training needs are no weights.
        ("", training_output, "holds no model.safetensors"),
        (
            "",
            |folder| {
                training_output(folder);
                fs::write(folder.join("pytorch_model.bin"), "").unwrap();
            },
            "pytorch_model.bin` is PyTorch's format",
        ),
    ];
    for (name, make, sentence) in cases {
        let home = tempfile::tempdir().unwrap();
        make(home.path());
        let given = home.path().join(name);
        if !name.is_empty() {
            touch(given.clone());
        }
        let model = home.path().join("m.onnx");
        let found = failure(&["--checkpoint", text(&given), "--output", text(&model)]);
        assert!(found.contains(sentence), "{found}\nlacks: {sentence}");
        assert!(!model.exists());
    }
}

/// A config, and files that training writes beside a checkpoint.
fn training_output(folder: &Path) {
    fs::copy(fixture("tiny-hf/config.json"), folder.join("config.json")).unwrap();
    for name in ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"] {
        fs::write(folder.join(name), "").unwrap();
    }
}

#[test]
fn ignores_unknown_names_on_request() {
    let home = broken(|folder| {
        edit_config(folder, "\"sliding_window\": 8", "\"sliding_window\": 8, \"note\": true");
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let extra = whole.tensor("norm.scale").unwrap();
        let mut tensors: Vec<_> = whole.tensors();
        tensors.push(("extra.bias".to_owned(), extra.clone()));
        tensors.push(("extra.weight".to_owned(), extra));
        let edited = safetensors::serialize(tensors, None).unwrap();
        fs::write(path, edited).unwrap();
    });
    let model = home.path().join("model.onnx");
    let base = [
        "--checkpoint",
        text(home.path()),
        "--output",
        text(&model),
        "--ignore-config-key",
        "note",
    ];
    let sentence = failure(&base);
    assert!(sentence.contains("OpenAI's original layout: `extra.bias` and 1 more;"), "{sentence}");
    assert!(sentence.ends_with("; pass --ignore-tensor extra.bias"), "{sentence}");
    let sentence = failure(&[&base[..], &["--ignore-tensor", "extra.bias"]].concat());
    assert!(sentence.contains("OpenAI's original layout: `extra.weight`;"), "{sentence}");
    for all in [
        &["--ignore-tensor", "extra.bias", "--ignore-tensor", "extra.weight"][..],
        &["--ignore-tensor", "extra.*"],
    ] {
        let output = run(&[&base[..], all].concat());
        assert!(output.status.success(), "{output:?}");
        let inspect = ["inspect", text(home.path()), "--ignore-config-key", "note"];
        let output = run(&[&inspect[..], all].concat());
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn refuses_to_ignore_names_that_are_absent_or_known() {
    let home = folder_with_tiny();
    let (tiny, model) = (home.path().join("tiny"), home.path().join("m.onnx"));
    for (option, name) in [
        ("--ignore-tensor", "foo"),
        ("--ignore-config-key", "bar"),
        ("--ignore-config-key", "head_dim"),
    ] {
        let sentence =
            failure(&["--checkpoint", text(&tiny), "--output", text(&model), option, name]);
        assert!(
            sentence.starts_with("nothing to ignore: ") && sentence.contains(name),
            "{sentence}"
        );
    }
}

#[test]
fn refuses_damaged_weights_files() {
    let home = tempfile::tempdir().unwrap();
    let (stage, model) = (home.path().join("w.safetensors"), home.path().join("m.onnx"));
    let (folder, gguf) = (home.path(), home.path().join("x.gguf"));
    let absent = failure(&["--weights", text(&gguf), "--output", text(&model)]);
    assert_eq!(absent, format!("there is no file `{}`", gguf.display()));
    fs::write(&gguf, b"GGUF\x03\0\0\0\0\0\0\0").unwrap();
    for (path, expected) in [
        (folder, "is a folder, expected a weights file"),
        (&gguf, "x.gguf` is GGUF, llama.cpp's format: use the SafeTensors"),
        (
            &fixture("tiny/model.safetensors"),
            "is not a weights file of gpt-oss-export; to use a checkpoint, give its folder",
        ),
    ] {
        let sentence = failure(&["--weights", text(path), "--output", text(&model)]);
        assert!(sentence.contains(expected), "{sentence}");
    }

    let tiny = fixture("tiny");
    let staging = ["--checkpoint", text(&tiny), "--save-weights", text(&stage), "--skip-onnx"];
    assert!(run(&staging).status.success());
    let whole = fs::read(&stage).unwrap();
    for (edit, expected) in [
        (
            Box::new(|bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1) as Damage,
            "contents fingerprint mismatch",
        ),
        (Box::new(|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1)), "download it again"),
        (
            Box::new(|bytes: &mut Vec<u8>| {
                replace(bytes, b"\\\"format\\\":5", b"\\\"format\\\":9")
            }),
            "has weights format 9",
        ),
        (
            Box::new(|bytes: &mut Vec<u8>| {
                replace(bytes, b"\\\"head_dim\\\":32", b"\\\"head_dim\\\":31")
            }),
            "`head_dim` must be even, found 31",
        ),
        (
            config("hidden_size", "96", "0 "),
            "`hidden_size` must be a whole number from 1 to 4294967295, found 0",
        ),
        (config("num_kv_heads", "2", "0"), "`num_kv_heads` must be a whole number"),
        (config("experts_per_token", "4", "0"), "`experts_per_token` must be a whole number"),
        (config("windows", "[8,", "[0,"), "`windows` must be a whole number"),
        (config("swiglu_limit", "7.0", "-7."), "invalid metadata"),
        (config("swiglu_limit", "7.0", "0.0"), "`swiglu_limit` must be a positive number, found 0"),
        (config("factor", "32.0", "-3.0"), "`factor` must be a positive number, found -3"),
    ] {
        let mut bytes = whole.clone();
        edit(&mut bytes);
        fs::write(&stage, &bytes).unwrap();
        let sentence = failure(&["--weights", text(&stage), "--output", text(&model)]);
        assert!(sentence.contains(expected), "{sentence}");
        assert!(!model.exists());
        // Nor is it taken for the stage that another run would write.
        let sentence = failure(&staging);
        assert!(sentence.contains("exists and differs from the file to write"), "{sentence}");
    }
}

#[test]
fn refuses_what_a_target_does_not_support() {
    for (name, options, sentence) in [
        (
            "tiny-1-kv",
            &[][..],
            "target `ort` does not support a head_dim of 20: GroupQueryAttention needs a multiple of 8; use target `onnx` with a cache; pass --target onnx --kv-cache",
        ),
        (
            "tiny",
            &["--functions"],
            "target `ort` does not support functions with experts in MXFP4: onnxruntime takes no MXFP4 scales as inputs of a function; export a flat graph; pass --target onnx",
        ),
        (
            "tiny",
            &["--ep", "webgpu"],
            "execution provider `webgpu` does not support experts in mxfp4: its kernel reads integers; pass --experts int4 or --experts int8",
        ),
        (
            "tiny",
            &["--max-length", "99"],
            "a maximum length applies to the files for onnxruntime-genai alone; pass --genai",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("model.onnx");
        let checkpoint = fixture(name);
        let base = ["--checkpoint", text(&checkpoint), "--output", text(&model), "--target", "ort"];
        assert_eq!(failure(&[&base[..], options].concat()), sentence);
        assert!(contents(home.path()).is_empty());
    }
}

type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// Edits a key of the config in a weights file's metadata.
fn config(key: &'static str, from: &'static str, to: &'static str) -> Damage {
    let key = move |value| format!("\\\"{key}\\\":{value}");
    Box::new(move |bytes| replace(bytes, key(from).as_bytes(), key(to).as_bytes()))
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
}
