//! Broken and hostile checkpoints: `export` and `inspect` refuse them with the same sentence,
//! quickly, with little memory, and write nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::environment::{onnxruntime, python};
use crate::refusals::{broken, edit_config, edit_header, write_index};
use crate::support::{
    binary, contents, export, export_args, fixture, printed, run, split_safetensors, text,
};

type Edit = Box<dyn Fn(&Path)>;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Limit of memory in bytes.
const MEMORY: u64 = 64 << 20;

fn config(from: &'static str, to: &'static str) -> Edit {
    Box::new(move |folder| edit_config(folder, from, to))
}

fn header(from: &'static str, to: &'static str) -> Edit {
    Box::new(move |folder| edit_header(folder, from, to))
}

/// Replaces the contents of a file.
fn file(name: &'static str, bytes: impl Into<Vec<u8>>) -> Edit {
    let bytes = bytes.into();
    Box::new(move |folder| fs::write(folder.join(name), &bytes).unwrap())
}

/// Replaces a file by something else.
fn instead(name: &'static str, make: fn(&Path)) -> Edit {
    Box::new(move |folder| {
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        make(&path);
    })
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn looped(path: &Path) {
    symlink(path.file_name().unwrap(), path).unwrap();
}

fn folder(path: &Path) {
    fs::create_dir(path).unwrap();
}

fn index(map: Value) -> Edit {
    Box::new(move |folder| write_index(folder, &map))
}

/// A file with these bytes and a hole of `hole` bytes behind them.
fn write_with_hole(path: &Path, bytes: &[u8], hole: u64) {
    fs::write(path, bytes).unwrap();
    resize(path, |length| length + hole);
}

fn resize(path: &Path, length: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length(file.metadata().unwrap().len())).unwrap();
}

/// A SafeTensors file with this header over `data` bytes of zeros.
fn weights(header: impl Into<String>, data: u64) -> Edit {
    let header = header.into();
    Box::new(move |folder| {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        write_with_hole(&folder.join(WEIGHTS), &bytes, data);
    })
}

/// A SafeTensors file with a header of zeros.
fn long_header(announced: u64) -> Edit {
    Box::new(move |folder| {
        write_with_hole(&folder.join(WEIGHTS), &announced.to_le_bytes(), announced);
    })
}

/// Cuts a part off the SafeTensors file.
fn cut(length: fn(u64) -> u64) -> Edit {
    Box::new(move |folder| resize(&folder.join(WEIGHTS), length))
}

fn remove(name: &'static str) -> Edit {
    Box::new(move |folder| fs::remove_file(folder.join(name)).unwrap())
}

/// Broken SafeTensors files.
fn headers() -> Vec<Edit> {
    let two = |first: &str, second: &str| format!(r#"{{"a":{first},"b":{second}}}"#);
    let u8s = |size: u64, start: u64, end: u64| {
        format!(r#"{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
    };
    vec![
        long_header(u64::from(u32::MAX)),
        long_header(99_000_000),
        long_header(8 << 20),
        weights(r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,9]}}"#, 9),
        weights(two(&u8s(8, 0, 8), &u8s(8, 4, 12)), 12),
        weights(two(&u8s(8, 0, 8), &u8s(8, 12, 20)), 20),
        weights(two(&u8s(8, 0, 8), &u8s(8, 1 << 60, (1 << 60) + 8)), 16),
        weights(r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}}"#, 8),
        weights(r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[-1,7]}}"#, 8),
        weights(r#"{"a":{"dtype":"U8","shape":[-8],"data_offsets":[0,8]}}"#, 8),
        weights(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#, 0),
        weights(r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#, 0),
        weights(
            r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#,
            8,
        ),
        weights(r#"{"a":{"dtype":"U8","shape":[8]}}"#, 8),
        weights(r#"{"a":{"dtype":"Q4_K","shape":[8],"data_offsets":[0,8]}}"#, 8),
        weights(r#"{"a":[0,8]}"#, 8),
        weights("{}", 0),
        header("\"shape\":[320,96]", "\"shape\":[96,320]"),
        instead(WEIGHTS, fifo),
        instead(WEIGHTS, looped),
        instead(WEIGHTS, folder),
        cut(|length| length / 2),
        cut(|length| length - 1),
        remove(WEIGHTS),
        file(WEIGHTS, ""),
        file(WEIGHTS, [0xff; 64]),
        file(WEIGHTS, b"\x02\0\0\0\0\0\0\0[]"),
        header("block.1.attn.sinks", "block.1.attn.blink"),
        header("\"dtype\":\"BF16\",\"shape\":[320,96]", "\"dtype\":\"I16\", \"shape\":[320,96]"),
        header(
            "\"dtype\":\"U8\",\"shape\":[8,256,3,16]",
            "\"dtype\":\"I8\",\"shape\":[8,256,3,16]",
        ),
        header("\"shape\":[8,256,3,16]", "\"shape\":[8,3,256,16]"),
        Box::new(|folder| {
            fs::rename(folder.join(WEIGHTS), folder.join("a.safetensors")).unwrap();
            fs::copy(folder.join("a.safetensors"), folder.join("b.safetensors")).unwrap();
        }),
    ]
}

/// Broken configs.
fn configs() -> Vec<Edit> {
    let long = || [b"{\"a\":[".to_vec(), b"1,".repeat(5 << 20), b"1]}".to_vec()].concat();
    vec![
        instead(CONFIG, fifo),
        instead(CONFIG, looped),
        instead(CONFIG, folder),
        file(CONFIG, long()),
        file(CONFIG, "[".repeat(100_000)),
        file(CONFIG, b"{\"hidden_size\": \"\xff\"}"),
        file(CONFIG, "\u{feff}{}"),
        file(CONFIG, "[96]"),
        file(CONFIG, "{"),
        remove(CONFIG),
        // Of another layout.
        file(CONFIG, fs::read(fixture("tiny-hf/config.json")).unwrap()),
        config("\"hidden_size\": 96", "\"hidden_size\": 128"),
        config("\"hidden_size\": 96", "\"hidden_size\": 100"),
        config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"),
        config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"),
        config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4000000000"),
        config("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
        config("\"experts_per_token\": 4", "\"experts_per_token\": 9"),
        config("\"sliding_window\": 8", "\"sliding_window\": 8, \"qk_norm\": true"),
        config("\"rope_theta\": 150000.0", "\"rope_theta\": null"),
        config("\"hidden_size\": 96", "\"hidden_size\": 96, \"hidden_size\": 128"),
        config("\"hidden_size\": 96", "\"hidden_size\": 96.5"),
        config("\"hidden_size\": 96", "\"hidden_size\": \"96\""),
        config("\"hidden_size\": 96", "\"hidden_size\": 4294967296"),
        config("\"hidden_size\": 96", "\"hidden_size\": 4294967295"),
        config("\"vocab_size\": 320", "\"vocab_size\": 4294967295"),
        config("\"num_experts\": 8", "\"num_experts\": 0"),
        config("\"num_experts\": 8", "\"num_experts\": 4294967295"),
        config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0"),
        config("\"num_hidden_layers\": 3", "\"num_hidden_layers\": -3"),
        config("\"head_dim\": 32", "\"head_dim\": 31"),
        config("\"sliding_window\": 8", "\"sliding_window\": -8"),
        config("\"rope_theta\": 150000.0", "\"rope_theta\": NaN"),
        config("\"rope_theta\": 150000.0", "\"rope_theta\": Infinity"),
        config("\"rope_theta\": 150000.0", "\"rope_theta\": 1e999"),
        config("\"rope_theta\": 150000.0", "\"rope_theta\": -150000.0"),
        config("\"rope_scaling_factor\": 32.0", "\"rope_scaling_factor\": 0"),
    ]
}

/// Broken indices.
fn indices() -> Vec<Edit> {
    let twice = r#"{"weight_map": {"a": "model.safetensors", "a": "other.safetensors"}}"#;
    let long = [b"{\"weight_map\": {}}".to_vec(), b" ".repeat(9 << 20)].concat();
    vec![
        index(json!({"embedding.weight": "/etc/passwd"})),
        index(json!({"embedding.weight": "../tiny/model.safetensors"})),
        index(json!({"embedding.weight": "absent.safetensors"})),
        index(json!({"lm_head": WEIGHTS})),
        index(json!({"embedding.weight": ".."})),
        index(json!({"embedding.weight": ""})),
        index(json!({"embedding.weight": 7})),
        file(INDEX, "{}"),
        file(INDEX, "{\"weight_map\": {\"\\ud800\": 1}}"),
        file(INDEX, twice),
        file(INDEX, long),
        instead(INDEX, fifo),
        instead(INDEX, looped),
        Box::new(|folder| {
            fifo(&folder.join("pipe.safetensors"));
            write_index(folder, &json!({"embedding.weight": "pipe.safetensors"}));
        }),
        Box::new(|folder| {
            looped(&folder.join("loop.safetensors"));
            write_index(folder, &json!({"embedding.weight": "loop.safetensors"}));
        }),
    ]
}

#[test]
fn refuses_broken_checkpoints_quickly_with_little_memory() {
    let edits = [headers(), configs(), indices()].into_iter().flatten();
    let homes: Vec<_> = edits.map(|edit| broken(|folder| edit(folder))).collect();
    let out = tempfile::tempdir().unwrap();
    let model = out.path().join("out/model.onnx");
    let files = |home: &TempDir| {
        let entries = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> =
            entries.map(|it| (it.file_name(), it.metadata().unwrap().len())).collect();
        files.sort();
        files
    };
    let before: Vec<_> = homes.iter().map(files).collect();
    let commands = homes.iter().flat_map(|home| {
        let export = export_args(home.path(), &model, &["--external-data", "copy"]);
        [export, vec!["inspect", "--scan", text(home.path())]]
    });
    let path = [env!("CARGO_BIN_EXE_gpt-oss-export")];
    let commands: Vec<_> = commands.map(|arguments| [&path[..], &arguments].concat()).collect();
    let ends = python("costs.py", &[], &json!(commands));
    let mut sentences = Vec::new();
    for (home, ends) in homes.iter().zip(ends.as_array().unwrap().chunks(2)) {
        for end in ends {
            assert_eq!(end["status"], 1, "{end}");
            assert!(end["kilobytes"].as_u64().unwrap() << 10 <= MEMORY, "{end}");
        }
        let said = ends[0]["said"].as_str().unwrap().trim_end();
        assert_eq!(said, ends[1]["said"].as_str().unwrap().trim_end(), "both say the same");
        assert!(!said.contains('\n') && !said.contains("panicked"), "{said}");
        sentences.push(said.replace(text(home.path()), "CHECKPOINT"));
    }
    assert!(contents(out.path()).is_empty());
    assert!(before == homes.iter().map(files).collect::<Vec<_>>());
    insta::assert_snapshot!(sentences.join("\n"));
}

/// Runs the binary, which must print this error; returns its other output.
fn fails(arguments: &[&str], sentence: &str) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(error.contains(sentence), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A scale of 255 is NaN.
#[test]
fn reports_nan_scales_wherever_bytes_are_read() {
    let home = broken(|folder| {
        let path = folder.join(WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        let (header, data) = split_safetensors(&bytes);
        let data_start = bytes.len() - data.len();
        let header: Value = serde_json::from_slice(header).unwrap();
        let end = &header["block.1.mlp.mlp2_weight.scales"]["data_offsets"][1];
        bytes[data_start + end.as_u64().unwrap() as usize - 1] = 255;
        fs::write(path, bytes).unwrap();
    });
    let (checkpoint, model) = (home.path(), home.path().join("onnx/model.onnx"));
    let scales = "`layers.1.mlp.experts.down.scales`: 1 of 3072 elements are infinite or NaN";
    let values = "`layers.1.mlp.experts.down`: 32 of 98304 values are infinite or NaN";
    for (options, sentence) in
        [(["--external-data", "copy"], scales), (["--experts", "int8"], values)]
    {
        fails(&export_args(checkpoint, &model, &options), sentence);
        assert!(!model.exists());
    }
    // In place nothing but headers is read.
    let beside = checkpoint.join("model.onnx");
    export(&export_args(checkpoint, &beside, &[]));
    let library = ["--onnxruntime", text(onnxruntime())];
    let verify = ["verify", text(&beside), "--checkpoint", text(checkpoint)];
    fails(&[&verify[..], &library].concat(), scales);
    let report = fails(&["inspect", "--scan", text(checkpoint)], "has damaged tensors");
    let expected = "layers.1.mlp.experts.down.scales: 1 of 3,072 values are infinite or NaN";
    assert!(report.contains(expected) && report.ends_with("1 tensor damaged\n"), "{report}");
    let whole = printed(&mut binary(&["inspect", "--scan", text(&fixture("tiny"))]));
    assert!(whole.contains("all values are finite"));
}
