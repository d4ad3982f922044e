//! Refusals are one sentence that says what to do, and nothing is written.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::derived::{tiny, write};
use crate::support::{
    assert_contains, contents, copy_folder, export, export_args, failure, fixture, flip_last_bit,
    run, stage_args, staged_args, text,
};

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
    for (name, options, expected) in [
        ("tiny", ["--layers", "4"], "cannot keep 4 layers: the checkpoint has 3"),
        ("tiny", ["--external-data", "in-place"], "it is outside the model's folder"),
        (
            "tiny-1-kv",
            ["--target", "ort"],
            "target `ort` does not support a head_dim of 20: GroupQueryAttention needs a multiple of 8; use target `onnx`, with a cache if the model generates text; pass --target onnx",
        ),
        (
            "tiny",
            ["--target=ort", "--functions"],
            "target `ort` does not support functions with experts in MXFP4: onnxruntime takes no MXFP4 scales as inputs of a function; export a flat graph; pass --target onnx",
        ),
        (
            "tiny",
            ["--for=cuda", "--keep-activations"],
            "execution provider `cuda` does not support keeping activations in float: its kernels have one way to multiply integers; do not ask to keep them",
        ),
        ("tiny", ["--ignore-tensor", "foo"], "tiny` has no unknown tensor `foo`"),
        ("tiny", ["--ignore-config-key", "bar"], "config.json` has no unknown key `bar`"),
        ("tiny", ["--ignore-config-key", "head_dim"], "has no unknown key `head_dim`"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("out/model.onnx");
        assert_contains(&failure(&export_args(&fixture(name), &model, &options)), expected);
        assert!(contents(home.path()).is_empty());
    }
}

#[test]
fn refuses_unsupported_formats_with_alternative() {
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
        assert_contains(&failure(&export_args(&given, &model, &[])), sentence);
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
        let mut tensors = tiny();
        let extra = tensors["norm.scale"].clone();
        tensors.extend(["extra.bias", "extra.weight"].map(|name| (name.into(), extra.clone())));
        write(&folder.join("model.safetensors"), &tensors);
    });
    let model = home.path().join("model.onnx");
    let note = ["--ignore-config-key", "note"];
    let one = ["--ignore-tensor", "extra.bias"];
    let export = export_args(home.path(), &model, &note);
    let sentence = failure(&export);
    assert!(sentence.contains("OpenAI's original layout: `extra.bias` and 1 more;"), "{sentence}");
    assert!(sentence.ends_with("; pass --ignore-tensor extra.bias"), "{sentence}");
    let sentence = failure(&[&export[..], &one].concat());
    assert_contains(&sentence, "OpenAI's original layout: `extra.weight`;");
    let both = [&one[..], &["--ignore-tensor", "extra.weight"]].concat();
    for all in [&both[..], &["--ignore-tensor", "extra.*"]] {
        for command in [&export[..], &["inspect", text(home.path()), note[0], note[1]]] {
            let output = run(&[command, all].concat());
            assert!(output.status.success(), "{output:?}");
        }
    }
}

#[test]
fn refuses_damaged_and_foreign_weights_files() {
    let home = tempfile::tempdir().unwrap();
    let [folder, model, gguf, damaged, short] =
        ["", "m.onnx", "x.gguf", "damaged.safetensors", "short.safetensors"]
            .map(|name| home.path().join(name));
    fs::write(&gguf, b"GGUF\x03\0\0\0\0\0\0\0").unwrap();
    for path in [&damaged, &short] {
        export(&stage_args(&fixture("tiny"), path, &[]));
    }
    flip_last_bit(&damaged);
    let length = fs::metadata(&short).unwrap().len();
    fs::File::options().write(true).open(&short).unwrap().set_len(length - 1).unwrap();
    for (path, expected) in [
        (&folder, "is a folder, expected a weights file"),
        (&folder.join("absent"), "there is no file `"),
        (&gguf, "x.gguf` is GGUF, llama.cpp's format: use the SafeTensors"),
        (
            &fixture("tiny/model.safetensors"),
            "is not a weights file of gpt-oss-export; to use a checkpoint, give its folder",
        ),
        (&damaged, "contents fingerprint mismatch"),
        (&short, "download it again"),
    ] {
        assert_contains(&failure(&staged_args(path, &model, &[])), expected);
        assert!(!model.exists());
    }
    // Nor are they reused as the file that another run would write.
    for path in [&damaged, &short] {
        let sentence = failure(&stage_args(&fixture("tiny"), path, &[]));
        assert_contains(&sentence, "exists and differs from the file to write");
    }
}
