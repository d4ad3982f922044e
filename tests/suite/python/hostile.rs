//! Broken and hostile checkpoints: `export` and `inspect` refuse them with the same sentence,
//! quickly, with little memory, and write nothing.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use serde_json::json;

use super::environment::python;
use super::verify::refused;
use crate::layout_fixtures::{edit_config, edit_tensors, edited, write_index};
use crate::support::{
    Home, assert_contains, assert_ends, binary, contents, export_args, fixture, printed, resize,
    run, split_safetensors, text,
};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

const MEMORY: u64 = 64 << 20;

/// Checkpoints with each of these texts in the place of the value of a key in the config.
fn config(key: &str, value: &str, others: &[&str]) -> Vec<Home> {
    let entry = |value: &str| format!("\"{key}\": {value}");
    let edit = |other: &&str| edited(|folder| edit_config(folder, &entry(value), &entry(other)));
    others.iter().map(edit).collect()
}

/// Edits the header of the SafeTensors file; its length must not change.
fn header(from: &str, to: &str) -> Home {
    edited(|folder| {
        let path = folder.join(WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        let length = split_safetensors(&bytes).0.len();
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        assert!(header.contains(from) && from.len() == to.len(), "{header}");
        bytes[8..8 + length].copy_from_slice(header.replace(from, to).as_bytes());
        fs::write(path, bytes).unwrap();
    })
}

fn file(name: &str, bytes: impl AsRef<[u8]>) -> Home {
    edited(|folder| fs::write(folder.join(name), bytes).unwrap())
}

/// Replaces a file by something else.
fn instead(name: &str, make: fn(&Path)) -> Home {
    edited(|folder| {
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

fn absent(path: &Path) {
    assert!(!path.exists());
}

/// An index that says where the embedding is.
fn index(shard: impl Serialize) -> Home {
    edited(|folder| write_index(folder, json!({"embedding.weight": shard})))
}

/// The same, with something made there.
fn index_of(shard: &str, make: fn(&Path)) -> Home {
    let home = index(shard);
    // Beside an index that names another file it would be the other save.
    fs::remove_file(home.join("checkpoint/model.safetensors")).unwrap();
    make(&home.checkpoint().join(shard));
    home
}

/// A SafeTensors file with this header over `data` bytes of zeros.
fn weights(header: impl AsRef<[u8]>, data: u64) -> Home {
    let header = header.as_ref();
    sparse_file(&[&(header.len() as u64).to_le_bytes(), header].concat(), data)
}

/// A SafeTensors file with a header of zeros.
fn long_header(announced: u64) -> Home {
    sparse_file(&announced.to_le_bytes(), announced)
}

/// A SafeTensors file of these bytes, and a hole behind them.
fn sparse_file(bytes: &[u8], hole: u64) -> Home {
    let home = file(WEIGHTS, bytes);
    resize(&home.checkpoint().join(WEIGHTS), |length| length + hole);
    home
}

fn cut(length: fn(u64) -> u64) -> Home {
    edited(|folder| resize(&folder.join(WEIGHTS), length))
}

fn headers() -> Vec<Home> {
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
        weights(two(&u8s(8, 0, 8), &u8s(8, 0, 8)).replace("\"b\"", "\"a\""), 8),
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
        instead(WEIGHTS, absent),
        file(WEIGHTS, ""),
        file(WEIGHTS, [0xff; 64]),
        file(WEIGHTS, b"\x02\0\0\0\0\0\0\0[]"),
        header("block.1.attn.sinks", "block.1.attn.blink"),
        header("\"dtype\":\"BF16\",\"shape\":[320,96]", "\"dtype\":\"I16\", \"shape\":[320,96]"),
        header("\"U8\",\"shape\":[8,256,3,16]", "\"I8\",\"shape\":[8,256,3,16]"),
        header("\"shape\":[8,256,3,16]", "\"shape\":[8,3,256,16]"),
        edited(|folder| {
            fs::rename(folder.join(WEIGHTS), folder.join("a.safetensors")).unwrap();
            fs::copy(folder.join("a.safetensors"), folder.join("b.safetensors")).unwrap();
        }),
    ]
}

fn configs() -> Vec<Home> {
    let long = [&b"{\"a\":["[..], &b"1,".repeat(5 << 20), b"1]}"].concat();
    let files = vec![
        instead(CONFIG, fifo),
        instead(CONFIG, looped),
        instead(CONFIG, folder),
        file(CONFIG, long),
        file(CONFIG, "[".repeat(100_000)),
        file(CONFIG, b"{\"hidden_size\": \"\xff\"}"),
        file(CONFIG, "\u{feff}{}"),
        file(CONFIG, "[96]"),
        file(CONFIG, "{"),
        instead(CONFIG, absent),
        // Of another layout.
        file(CONFIG, fs::read(fixture("tiny-hf/config.json")).unwrap()),
    ];
    let sizes =
        ["128", "100", "96, \"hidden_size\": 128", "96.5", "\"96\"", "4294967296", "4294967295"];
    let values = [
        config("hidden_size", "96", &sizes),
        config("num_hidden_layers", "3", &["4", "2", "4000000000", "0", "-3"]),
        config("num_key_value_heads", "2", &["3"]),
        config("experts_per_token", "4", &["9"]),
        config("sliding_window", "8", &["8, \"qk_norm\": true", "-8"]),
        config("rope_theta", "150000.0", &["null", "NaN", "Infinity", "1e999", "-150000.0"]),
        config("vocab_size", "320", &["4294967295"]),
        config("num_experts", "8", &["0", "4294967295"]),
        config("head_dim", "32", &["31"]),
        config("rope_scaling_factor", "32.0", &["0"]),
    ];
    files.into_iter().chain(values.into_iter().flatten()).collect()
}

fn indices() -> Vec<Home> {
    let twice = r#"{"weight_map": {"a": "model.safetensors", "a": "other.safetensors"}}"#;
    let long = [b"{\"weight_map\": {}}".to_vec(), b" ".repeat(9 << 20)].concat();
    vec![
        index("/etc/passwd"),
        index("../tiny/model.safetensors"),
        index("absent.safetensors"),
        edited(|folder| write_index(folder, json!({"lm_head": WEIGHTS}))),
        index(".."),
        index(""),
        index(7),
        file(INDEX, "{}"),
        file(INDEX, "{\"weight_map\": {\"\\ud800\": 1}}"),
        file(INDEX, twice),
        file(INDEX, long),
        instead(INDEX, fifo),
        instead(INDEX, looped),
        index_of("pipe.safetensors", fifo),
        index_of("loop.safetensors", looped),
    ]
}

/// Names and sizes of the files of a checkpoint.
fn files(home: &Home) -> Vec<(OsString, u64)> {
    let entries = fs::read_dir(home.checkpoint()).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect();
    files.sort();
    files
}

#[test]
fn refuses_broken_checkpoints_quickly_with_little_memory() {
    let homes: Vec<Home> = [headers(), configs(), indices()].into_iter().flatten().collect();
    let before: Vec<_> = homes.iter().map(files).collect();
    let checkpoints: Vec<_> = homes.iter().map(Home::checkpoint).collect();
    let out = Home::new();
    let model = out.join("out/model.onnx");
    let commands = checkpoints.iter().flat_map(|checkpoint| {
        let export = export_args(checkpoint, &model, &["--external-data", "copy"]);
        [export, vec!["inspect", "--scan", text(checkpoint)]]
    });
    let path = [env!("CARGO_BIN_EXE_gpt-oss-export")];
    let commands: Vec<_> = commands.map(|arguments| [&path[..], &arguments].concat()).collect();
    let ends = python("costs.py", &[], &json!(commands));
    let mut sentences = Vec::new();
    for (checkpoint, ends) in checkpoints.iter().zip(ends.as_array().unwrap().chunks(2)) {
        for end in ends {
            assert_eq!(end["status"], 1, "{end}");
            assert!(end["kilobytes"].as_u64().unwrap() << 10 <= MEMORY, "{end}");
        }
        let said = ends[0]["said"].as_str().unwrap().trim_end();
        assert_ends(ends[1]["said"].as_str().unwrap().trim_end(), said);
        assert!(
            said.lines().all(|line| line.starts_with("error: ") || line.starts_with("help: ")),
            "{said}"
        );
        sentences.push(said.replace(text(checkpoint), "CHECKPOINT"));
    }
    assert!(contents(&out).is_empty());
    assert!(before == homes.iter().map(files).collect::<Vec<_>>());
    insta::assert_snapshot!(sentences.join("\n"));
}

/// A scale of 255 is NaN.
#[test]
fn reports_nan_scales_wherever_bytes_are_read() {
    let (whole, home) = (Home::with("tiny"), Home::with("tiny"));
    let checkpoint = home.checkpoint();
    edit_tensors(&checkpoint, |tensors| {
        *tensors.get_mut("block.1.mlp.mlp2_weight.scales").unwrap().2.last_mut().unwrap() = 255;
    });
    let scales = "checkpoint/model.safetensors`, tensor `block.1.mlp.mlp2_weight.scales`: 1 of 3072 values is infinite or NaN";
    for options in [&[][..], &["--external-data", "copy"], &["--experts", "int8"]] {
        assert_contains(&home.refusal("onnx/model", options), scales);
    }
    let (model, _) = whole.export("model", &[]);
    assert_contains(&refused(&model, &checkpoint, &[]), scales);
    let scan = run(&["inspect", "--scan", text(&checkpoint)]);
    let [report, error] = [scan.stdout, scan.stderr].map(|it| String::from_utf8(it).unwrap());
    assert_eq!(scan.status.code(), Some(1), "{error}");
    assert_contains(&error, scales);
    let expected = "layers.1.mlp.experts.down.scales (block.1.mlp.mlp2_weight.scales): 1 of 3,072 values are infinite or NaN";
    assert_contains(&report, expected);
    assert_ends(&report, "1 tensor damaged\n");
    let whole = printed(&mut binary(&["inspect", "--scan", text(&fixture("tiny"))]));
    assert_contains(&whole, "all values are finite");
}
