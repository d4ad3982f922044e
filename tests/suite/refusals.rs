//! What is not understood is refused, in one sentence, and nothing is touched.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{contents, copy_folder, failure, fixture, folder_with_tiny, run, text};

/// A folder with a checkpoint that one edit has broken.
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

/// Rewrites the header of the checkpoint's file; names keep their length, so
/// that nothing else moves.
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

type Edit = Box<dyn FnOnce(&Path)>;

#[test]
fn bad_checkpoints_are_refused_in_one_sentence() {
    let file = |path: &'static str, bytes: &'static [u8]| -> Edit {
        Box::new(move |f| fs::write(f.join(path), bytes).unwrap())
    };
    let config = |from: &'static str, to: &'static str| -> Edit {
        Box::new(move |f| edit_config(f, from, to))
    };
    let header = |from: &'static str, to: &'static str| -> Edit {
        Box::new(move |f| edit_header(f, from, to))
    };
    let cases: Vec<(Edit, &[&str])> = vec![
        (Box::new(|f| fs::remove_file(f.join("config.json")).unwrap()), &[]),
        (Box::new(|f| fs::remove_file(f.join("model.safetensors")).unwrap()), &[]),
        (
            Box::new(|f| {
                fs::copy(fixture("tiny-hf/config.json"), f.join("config.json")).unwrap();
            }),
            &[],
        ),
        (file("config.json", b"{"), &[]),
        (file("config.json", b"\xff\xfe"), &[]),
        (file("model.safetensors", b""), &[]),
        (file("model.safetensors", &[0xff; 64]), &[]),
        (file("model.safetensors", b"\x02\0\0\0\0\0\0\0[]"), &[]),
        (
            Box::new(|f| {
                let path = f.join("model.safetensors");
                let length = fs::metadata(&path).unwrap().len();
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length - 1).unwrap();
            }),
            &[],
        ),
        (config("\"sliding_window\": 8", "\"sliding_window\": 8, \"qk_norm\": true"), &[]),
        (config("\"hidden_size\": 96", "\"hidden_size\": 128"), &[]),
        (config("\"hidden_size\": 96", "\"hidden_size\": 100"), &[]),
        (config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"), &[]),
        (config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"), &[]),
        (config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4000000000"), &[]),
        (config("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), &[]),
        (config("\"experts_per_token\": 4", "\"experts_per_token\": 9"), &[]),
        (config("\"rope_theta\": 150000.0", "\"rope_theta\": null"), &[]),
        (header("block.1.attn.sinks", "block.1.attn.blink"), &[]),
        (
            header(
                "\"dtype\":\"BF16\",\"shape\":[320,96]",
                "\"dtype\":\"I16\", \"shape\":[320,96]",
            ),
            &[],
        ),
        (
            header(
                "\"dtype\":\"U8\",\"shape\":[8,256,3,16]",
                "\"dtype\":\"I8\",\"shape\":[8,256,3,16]",
            ),
            &[],
        ),
        (header("\"shape\":[8,256,3,16]", "\"shape\":[8,3,256,16]"), &[]),
        (
            Box::new(|f| write_index(f, &json!({"embedding.weight": "../tiny/model.safetensors"}))),
            &[],
        ),
        (Box::new(|f| write_index(f, &json!({"embedding.weight": "absent.safetensors"}))), &[]),
        (Box::new(|f| write_index(f, &json!({"lm_head": "model.safetensors"}))), &[]),
        (
            Box::new(|f| {
                fs::rename(f.join("model.safetensors"), f.join("a.safetensors")).unwrap();
                fs::copy(f.join("a.safetensors"), f.join("b.safetensors")).unwrap();
            }),
            &[],
        ),
        (Box::new(|_| ()), &["--layers", "4"]),
        (Box::new(|_| ()), &["--external-data", "in-place"]),
    ];
    let mut sentences = Vec::new();
    for (edit, options) in cases {
        let home = broken(edit);
        let destination = tempfile::tempdir().unwrap();
        let out = destination.path().join("out/model.onnx");
        let before = contents(home.path());
        let sentence = failure(
            &[&["--checkpoint", text(home.path()), "--output", text(&out)], options].concat(),
        );
        assert!(!sentence.contains('\n') && !sentence.contains("panicked"), "{sentence}");
        assert_eq!(contents(home.path()), before, "{sentence}");
        assert!(contents(destination.path()).is_empty(), "{sentence}");
        sentences.push(
            sentence
                .replace(text(home.path()), "CHECKPOINT")
                .replace(text(destination.path()), "OUT"),
        );
    }
    insta::assert_snapshot!(sentences.join("\n"));
}

/// What people have besides is named, with what to use instead.
#[test]
fn other_formats_are_refused_by_name() {
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
            "adapter_config.json` is a LoRA adapter's, beside a whole model: merge it (peft's merge_and_unload, then save_pretrained) and export the result, or move it away if this model is the result",
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
            "x-MXFP4.gguf` is GGUF, llama.cpp's format: use the SafeTensors checkpoint that it was made from, as openai/gpt-oss-20b",
        ),
        ("", |folder| fs::write(folder.join("x.gguf"), "").unwrap(), "x.gguf` is GGUF"),
        (
            "",
            |folder| fs::write(folder.join("model.bin"), "").unwrap(),
            "model.bin` is OpenAI's format for Metal: use `original` beside its folder",
        ),
        // What training leaves behind is no weights.
        ("", trained, "holds no model.safetensors"),
        (
            "",
            |folder| {
                trained(folder);
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

/// A config, and what training leaves beside a checkpoint.
fn trained(folder: &Path) {
    fs::copy(fixture("tiny-hf/config.json"), folder.join("config.json")).unwrap();
    for name in ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"] {
        fs::write(folder.join(name), "").unwrap();
    }
}

/// So it is where a stage is asked for; one that is not there is not guessed at.
#[test]
fn other_formats_are_no_stages() {
    let home = tempfile::tempdir().unwrap();
    let (gguf, model) = (home.path().join("x.gguf"), home.path().join("m.onnx"));
    let said = || failure(&["--weights", text(&gguf), "--output", text(&model)]);
    assert_eq!(said(), format!("there is no file `{}`", gguf.display()));
    fs::write(&gguf, b"GGUF\x03\0\0\0\0\0\0\0").unwrap();
    assert!(said().contains("x.gguf` is GGUF, llama.cpp's format: use the SafeTensors"));
}

#[test]
fn unknown_names_can_be_overlooked_by_name() {
    let home = broken(|folder| {
        edit_config(folder, "\"sliding_window\": 8", "\"sliding_window\": 8, \"note\": true");
        // Two tensors more than the layout has.
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
    assert!(sentence.contains("holds tensor `extra.bias` and 1 more, which are"), "{sentence}");
    assert!(sentence.contains("pass --ignore-tensor extra.bias, or a pattern"), "{sentence}");
    let sentence = failure(&[&base[..], &["--ignore-tensor", "extra.bias"]].concat());
    assert!(sentence.contains("holds tensor `extra.weight`, which is not"), "{sentence}");
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
fn ignoring_what_is_not_there_is_a_mistake() {
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
            sentence.starts_with("there is nothing to ignore: ") && sentence.contains(name),
            "{sentence}"
        );
    }
}

#[test]
fn a_hugging_face_root_points_to_the_original_below_it() {
    let home = tempfile::tempdir().unwrap();
    let (original, model) = (home.path().join("original"), home.path().join("m.onnx"));
    copy_folder(&fixture("tiny"), &original);
    // Neither is there; then the config, but not the weights.
    for lacking in ["config.json", "model.safetensors"] {
        let sentence = failure(&["--checkpoint", text(home.path()), "--output", text(&model)]);
        assert!(sentence.contains(&format!("holds no {lacking}; `")), "{sentence}");
        assert!(sentence.contains("original` holds a checkpoint, with the weights as released"));
        fs::copy(fixture("tiny-hf/config.json"), home.path().join("config.json")).unwrap();
    }
    assert!(run(&["--checkpoint", text(&original), "--output", text(&model)]).status.success());
}

#[test]
fn bad_stages_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (stage, model) = (home.path().join("w.safetensors"), home.path().join("m.onnx"));
    let original = fixture("tiny/model.safetensors");
    let sentence = failure(&["--weights", text(&original), "--output", text(&model)]);
    assert!(
        sentence.ends_with("was not written by --save-weights; for a checkpoint use --checkpoint"),
        "{sentence}"
    );

    let tiny = fixture("tiny");
    let staging = ["--checkpoint", text(&tiny), "--save-weights", text(&stage), "--skip-onnx"];
    assert!(run(&staging).status.success());
    let whole = fs::read(&stage).unwrap();
    for (edit, expected) in [
        (
            Box::new(|bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1) as Damage,
            "it was changed, stage it again",
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
            "`head_dim` is even: found 31",
        ),
        (config("hidden_size", "96", "0 "), "from 1 to 4294967295: found `hidden_size` 0"),
        (config("num_kv_heads", "2", "0"), "found `num_key_value_heads` 0"),
        (config("experts_per_token", "4", "0"), "found `experts_per_token` 0"),
        (config("windows", "[8,", "[0,"), "found `sliding_window` 0"),
        (config("swiglu_limit", "7.0", "-7."), "cannot be read"),
        (
            config("swiglu_limit", "7.0", "0.0"),
            "parameters are positive numbers: found `swiglu_limit` 0",
        ),
        (config("factor", "32.0", "-3.0"), "found `rope_scaling_factor` -3"),
    ] {
        let mut bytes = whole.clone();
        edit(&mut bytes);
        fs::write(&stage, &bytes).unwrap();
        let sentence = failure(&["--weights", text(&stage), "--output", text(&model)]);
        assert!(sentence.contains(expected), "{sentence}");
        assert!(!model.exists());
        // Nor is it taken for the stage that another run would write.
        let sentence = failure(&staging);
        assert!(sentence.contains("is not what this export would write there"), "{sentence}");
    }
}

#[test]
fn what_a_target_does_not_take_is_refused() {
    for (name, options, sentence) in [
        (
            "tiny-1-kv",
            &[][..],
            "--target ort does not go with a head_dim of 20: onnxruntime's GroupQueryAttention takes multiples of 8; use --target onnx --kv-cache",
        ),
        (
            "tiny",
            &["--functions"],
            "--functions does not go with --target ort and experts in MXFP4: onnxruntime takes no MXFP4 scales as a function's input",
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
