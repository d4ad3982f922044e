//! `inspect` of folders that cannot be exported, and of those that only seem so. That `inspect`
//! and an export agree is checked for every folder that a test exports ([`crate::support`]).

use std::fs;
use std::path::Path;
use std::process::Output;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::layout_fixtures::{config, home, in_layout, write, write_index, write_shards};
use crate::support::{
    Home, assert_contains, assert_ends, assert_same, binary, edit_json, fixture, printed, resize,
    run, text, words,
};

const SHARDS: [&str; 3] = [
    "model-00000-of-00002.safetensors",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// The folder's description, and the errors.
fn described(folder: &Path, options: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = run(&[&["inspect", text(folder)], options].concat());
    assert_eq!(status.code(), Some(1));
    let [printed, error] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    let single_spaced = |line: &str| words(line).join(" ") + "\n";
    (printed.lines().map(single_spaced).collect(), error)
}

fn sharded() -> Home {
    let home = Home::new();
    write_shards(&home.checkpoint(), &config(), in_layout("hf"));
    home
}

type Edit = fn(&Path);

#[test]
fn describes_what_is_there_before_all_obstacles() {
    // What is done to a folder, lines of the description, and the ends of the errors.
    let table: [(Edit, &[&str], &[&str]); 11] = [
        (
            |folder| {
                SHARDS.iter().for_each(|file| fs::remove_file(folder.join(file)).unwrap());
                fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
                for name in ["model.bin", "vocabulary.json"] {
                    fs::write(folder.join(name), "").unwrap();
                }
            },
            &["other `model.bin`: CTranslate2's format"],
            &["or openai/gpt-oss-120b\n"],
        ),
        (
            |folder| fs::remove_file(folder.join(SHARDS[1])).unwrap(),
            &[
                "file model-00001-of-00002.safetensors: NOT USABLE: there is no file",
                "file model-00002-of-00002.safetensors: ",
                "config model_type \"gpt_oss\", num_hidden_layers 3, hidden_size 96",
            ],
            &["names the shard `model-00001-of-00002.safetensors`, which is missing: add it\n"],
        ),
        (
            |folder| resize(&folder.join(SHARDS[0]), |length| length - 1),
            &["file model-00000-of-00002.safetensors: NOT USABLE: `", "bf16 "],
            &["download it again\n"],
        ),
        // A wrong key hides no missing shard, and one damaged shard not the next.
        (
            |folder| {
                edit_json(&folder.join("config.json"), |config| config["mtp_layers"] = json!(1));
                fs::remove_file(folder.join(SHARDS[2])).unwrap();
            },
            &["file model-00001-of-00002.safetensors: "],
            &[
                "does not change what the model computes; pass --ignore-config-key mtp_layers\n",
                "names the shard `model-00002-of-00002.safetensors`, which is missing: add it\n",
            ],
        ),
        (
            |folder| {
                fs::write(folder.join(SHARDS[0]), "Entry not found").unwrap();
                fs::write(folder.join(SHARDS[2]), "version https://git-lfs").unwrap();
                fs::write(folder.join("config.json"), "<!doctype html>").unwrap();
            },
            &["file model-00002-of-00002.safetensors: NOT USABLE: `"],
            &[
                "config.json` is an HTML page, not the file itself: download it again\n",
                "00000-of-00002.safetensors` is a text that begins \"Entry not found\", not the file itself: download it again\n",
                "00002-of-00002.safetensors` is a Git LFS pointer, not the file itself: run `git lfs pull` in its clone, or download it again from the hub\n",
            ],
        ),
        (
            |folder| {
                let quantized = json!({"quant_method": "gptq"});
                edit_json(&folder.join("config.json"), |config| {
                    config["quantization_config"] = quantized;
                });
            },
            &["experts_per_token 4, quant_method \"gptq\"", "u8 "],
            &["; pass --ignore-config-key quantization_config.quant_method\n"],
        ),
        // A dtype that no model may have is described nevertheless.
        (
            |folder| {
                let tensor = (Dtype::F8_E4M3, vec![2, 3], vec![0; 6]);
                write(&folder.join(SHARDS[0]), &[("experts.w".to_owned(), tensor)].into());
            },
            &["f8e4m3 6 B in 1 tensor"],
            &["they are of different saves, use the index and the shards of one\n"],
        ),
        (
            |folder| {
                fs::write(folder.join("adapter_config.json"), "{}").unwrap();
                fs::write(folder.join("adapter_model.bin"), "").unwrap();
            },
            &["other `adapter_config.json`, `adapter_model.bin`: a LoRA adapter"],
            &["; pass --adapter FOLDER\n"],
        ),
        (
            |folder| {
                fs::remove_dir_all(folder).unwrap();
                fs::create_dir(folder).unwrap();
                for name in ["a.gguf", "b.gguf", "c.bin", "README.md"] {
                    fs::write(folder.join(name), "").unwrap();
                }
            },
            &[
                "other `a.gguf`, `b.gguf`: GGUF, llama.cpp's format",
                "other `c.bin`: PyTorch's format",
                "other `README.md`\n",
            ],
            &["or openai/gpt-oss-120b\n"],
        ),
        (
            |folder| {
                fs::remove_file(folder.join("config.json")).unwrap();
                fs::write(folder.join("model.safetensors.index.json"), "[]").unwrap();
            },
            &["file model-00000-of-00002.safetensors: ", "other `model.safetensors.index"],
            &["holds no config.json: copy the one that was saved with its weights into it\n"],
        ),
        (
            |folder| {
                fs::remove_dir_all(folder).unwrap();
                fs::create_dir(folder).unwrap();
            },
            &["folder "],
            &["it is empty; download the checkpoint into it, or choose another folder\n"],
        ),
    ];
    for (edit, lines, ends) in table {
        let home = sharded();
        edit(&home.checkpoint());
        let (printed, errors) = described(&home.checkpoint(), &[]);
        lines.iter().for_each(|line| assert_contains(&printed, line));
        let errors: Vec<_> = errors.split_inclusive('\n').collect();
        assert_eq!(errors.len(), ends.len(), "{errors:?}");
        for (error, end) in errors.iter().zip(ends) {
            assert!(error.starts_with("error: "), "{error}");
            assert_ends(error, end);
        }
        // The export says the same.
        home.refusal("m", &[]);
    }
}

#[test]
fn lists_obstacles_and_tensors_as_json() {
    let home = sharded();
    let folder = home.checkpoint();
    edit_json(&folder.join("config.json"), |config| config["note a"] = json!(1));
    fs::remove_file(folder.join(SHARDS[2])).unwrap();
    let inspect = |options: &[&str]| -> Value {
        let base = ["inspect", text(&folder), "--json", "--tensors", "*.sinks"];
        serde_json::from_slice(&run(&[&base, options].concat()).stdout).unwrap()
    };
    let report = inspect(&[]);
    assert_eq!((&report["kind"], &report["exportable"]), (&json!("folder"), &json!(false)));
    let obstacles = report["obstacles"].as_array().unwrap();
    assert_eq!(obstacles.len(), 2, "{report}");
    assert_same(obstacles[0]["remedies"][0].as_str().unwrap(), "--ignore-config-key 'note a'");
    assert_eq!(obstacles[1]["remedies"], json!([]));
    assert!(!report["tensors"].as_array().unwrap().is_empty());
    // Every range holds the tensor that the safetensors crate finds there.
    for tensor in report["tensors"].as_array().unwrap() {
        let place = &tensor["places"][0];
        let bytes = fs::read(folder.join(place["file"].as_str().unwrap())).unwrap();
        let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let [offset, length] =
            ["offset", "length"].map(|key| place[key].as_u64().unwrap() as usize);
        let name = tensor["name"].as_str().unwrap();
        assert_eq!(whole.tensor(name).unwrap().data(), &bytes[offset..][..length], "{name}");
    }
    // What is ignored is no obstacle.
    let report = inspect(&["--ignore-config-key", "note*"]);
    assert_eq!(report["obstacles"].as_array().unwrap().len(), 1, "{report}");
    write_shards(&folder, &config(), in_layout("hf"));
    let report = inspect(&[]);
    assert_eq!((&report["kind"], &report["exportable"]), (&json!("checkpoint"), &json!(true)));
    assert!(report.get("obstacles").is_none());
}

#[test]
fn several_errors_end_with_one_line_to_paste() {
    let mut config = config();
    config["note"] = json!(1);
    let mut map: serde_json::Map<String, Value> =
        in_layout("hf").into_keys().map(|name| (name, json!("w.safetensors"))).collect();
    map.insert("mtp.fc.weight".to_owned(), json!("mtp.safetensors"));
    let home = home(&config, &in_layout("hf"));
    let folder = home.checkpoint();
    fs::rename(folder.join("model.safetensors"), folder.join("w.safetensors")).unwrap();
    write_index(&folder, map);
    let sentence = home.refusal("m", &[]);
    assert_contains(&sentence, "; pass --ignore-config-key note\nerror: `");
    assert_contains(&sentence, "names the shard `mtp.safetensors`, which is missing: add it; the");
    let line = "--ignore-config-key note --ignore-tensor mtp.fc.weight";
    assert_ends(&sentence, &format!("help: all of these can be passed together: {line}"));
    home.export("m", &words(line));
}

/// Links as in Hugging Face's cache, of which one leads nowhere, because the download was broken
/// off.
#[cfg(unix)]
#[test]
fn describes_snapshots_of_links() {
    use std::os::unix::fs::symlink;
    let (real, home) = (sharded(), Home::new());
    let snapshot = home.join("snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    for entry in fs::read_dir(real.checkpoint()).unwrap() {
        let path = entry.unwrap().path();
        symlink(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
    printed(&mut binary(&["inspect", text(&snapshot)]));
    fs::remove_file(real.checkpoint().join(SHARDS[1])).unwrap();
    let (printed, error) = described(&snapshot, &["--scan"]);
    assert_contains(&printed, "model-00001-of-00002.safetensors: NOT USABLE: `");
    assert_ends(&error, "`, where nothing is: download it again\n");
}

/// Files that an export wrote are no part of a checkpoint.
#[test]
fn own_files_beside_a_checkpoint_are_not_counted() {
    for shard in ["model.safetensors", "weights.safetensors"] {
        let home = Home::with("tiny");
        let folder = home.checkpoint();
        fs::rename(folder.join("model.safetensors"), folder.join(shard)).unwrap();
        let (staged, _) = home.stage("staged", &[]);
        fs::rename(staged, folder.join("staged.safetensors")).unwrap();
        home.export("m", &[]);
        printed(&mut binary(&["inspect", text(&folder)]));
    }
    let home = Home::new();
    fs::create_dir(home.checkpoint()).unwrap();
    fs::copy(fixture("tiny/config.json"), home.join("checkpoint/config.json")).unwrap();
    assert_ends(
        &home.refusal("m", &[]),
        ": add the files that the checkpoint lacks, or choose another folder",
    );
}
