//! Weights files: staged, copied, shared, reused; and which bytes a model refers to.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::derived::{tiny, write};
use crate::support::{
    assert_contains, contents, export, export_args, export_in, failure, fixture, flip_last_bit,
    folder_with_checkpoint, stage_args, staged_args, text, weights_metadata,
};

const COPY: [&str; 2] = ["--external-data", "copy"];

/// The bytes of all files below a folder.
fn file_bytes(folder: &Path) -> Vec<Vec<u8>> {
    contents(folder).into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn staged_and_direct_exports_are_equal() {
    let (home, checkpoint) = (tempfile::tempdir().unwrap(), fixture("tiny"));
    let [staged, direct] = ["staged", "direct"].map(|name| home.path().join(name));
    let file = home.path().join("stage/w.safetensors");
    for layers in [&["--layers", "2"][..], &[]] {
        let _ = fs::remove_file(&file);
        let summary = export(&stage_args(&checkpoint, &file, layers));
        assert_eq!(summary["model"], Value::Null);
        assert_eq!(contents(&home.path().join("stage")).len(), 1);
        export(&staged_args(&file, &staged.join("m.onnx"), &[]));
        export(&export_args(&checkpoint, &direct.join("m.onnx"), layers));
        assert_eq!(file_bytes(&staged), file_bytes(&direct));
        let name = format!("weights-{}.safetensors", summary["fingerprint"].as_str().unwrap());
        for folder in [&staged, &direct] {
            assert_eq!(fs::read(&file).unwrap(), fs::read(folder.join(&name)).unwrap());
        }
    }
    // Fuzzing starts from it.
    let corpus = include_str!("../fuzz/corpus/metadata/tiny");
    assert_eq!(weights_metadata(&file).trim_end(), corpus);
}

#[test]
fn staged_file_beside_model_is_its_data() {
    let (home, checkpoint) = (tempfile::tempdir().unwrap(), fixture("tiny"));
    let (file, model) = (home.path().join("below/w.safetensors"), home.path().join("model.onnx"));
    export(&stage_args(&checkpoint, &file, &[]));
    let summary = export(&staged_args(&file, &model, &[]));
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(summary["weights"]["files"], json!(["below/w.safetensors"]));

    // Both stages in one run.
    let both = home.path().join("both");
    let again = both.join("w.safetensors");
    let save = ["--save-weights", text(&again)];
    let summary = export(&export_args(&checkpoint, &both.join("model.onnx"), &save));
    assert_eq!(summary["weights"]["files"], json!(["w.safetensors"]));
    assert_eq!(contents(&both).len(), 2);
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn in_place_export_refers_to_the_checkpoints_bytes() {
    let home = folder_with_checkpoint("tiny");
    let before = contents(home.path());
    let (model, summary) = export_in(home.path(), "model", &[]);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    let mut after = contents(home.path());
    after.retain(|(path, _)| *path != model);
    assert_eq!(before, after);

    // Every range holds the bytes of a tensor of the checkpoint.
    let bytes = fs::read(fixture("tiny/model.safetensors")).unwrap();
    let inspected = export(&["inspect", text(&model), "--tensors", "*"]);
    let tensors = inspected["tensors"].as_array().unwrap().iter();
    let ranges = tensors.flat_map(|tensor| tensor["places"].as_array().unwrap());
    let ours = ranges.map(|range| {
        assert_eq!(range["file"], "checkpoint/model.safetensors");
        let [offset, length] = ["offset", "length"].map(|key| range[key].as_u64().unwrap());
        bytes[offset as usize..][..length as usize].to_vec()
    });
    let mut ours: Vec<_> = ours.collect();
    let mut theirs: Vec<_> = tiny().into_values().map(|(_, _, data)| data).collect();
    ours.sort();
    theirs.sort();
    assert!(ours == theirs);
}

#[test]
fn weights_file_is_valid_and_aligned_safetensors() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("w.safetensors");
    export(&stage_args(&fixture("tiny"), &file, &[]));
    let bytes = fs::read(&file).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((8 + header) % 4096, 0);
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let aligned = 1 << (end - start).trailing_zeros().min(12);
        assert_eq!(start % aligned, 0, "{name} of {} bytes begins at {start}", end - start);
    }
    let (ours, theirs) = (safetensors::SafeTensors::deserialize(&bytes).unwrap(), tiny());
    for (name, original) in [
        ("layers.1.mlp.experts.down.blocks", "block.1.mlp.mlp2_weight.blocks"),
        ("layers.2.mlp.router.bias", "block.2.mlp.gate.bias"),
        ("lm_head.weight", "unembedding.weight"),
    ] {
        assert_eq!(ours.tensor(name).unwrap().data(), theirs[original].2);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn models_share_equal_weights_file_and_never_overwrite_another() {
    let (home, checkpoint) = (tempfile::tempdir().unwrap(), fixture("tiny"));
    let (first, second) = (home.path().join("a.onnx"), home.path().join("b.onnx"));
    let written = export(&export_args(&checkpoint, &first, &[]));
    let reused = export(&export_args(&checkpoint, &second, &["--functions"]));
    assert!(written["weights"]["bytes_written"].as_u64().unwrap() > 0);
    assert_eq!(reused["weights"]["bytes_written"], 0);
    assert_eq!(reused["weights"]["files"], written["weights"]["files"]);
    assert_eq!(contents(home.path()).len(), 3);

    // A fine-tune, whose headers are equal, has a file of its own.
    let other = folder_with_checkpoint("tiny");
    let tuned = other.path().join("checkpoint");
    flip_last_bit(&tuned.join("model.safetensors"));
    let before = contents(home.path());
    export(&export_args(&tuned, &home.path().join("c.onnx"), &[]));
    assert!(before.iter().all(|file| contents(home.path()).contains(file)));
    assert_eq!(contents(home.path()).len(), 5);

    flip_last_bit(&home.path().join(written["weights"]["files"][0].as_str().unwrap()));
    let before = contents(home.path());
    let sentence = failure(&export_args(&checkpoint, &second, &[]));
    assert_contains(&sentence, "and a model may be reading it");
    assert_eq!(contents(home.path()), before);
}

#[test]
fn shards_are_joined_by_their_index() {
    let home = tempfile::tempdir().unwrap();
    let sharded = home.path().join("checkpoint");
    write_openai_shards(&sharded);
    let (_, summary) = export_in(home.path(), "model", &[]);
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    // The same weights, whichever files they come from.
    let [x, y] = ["x", "y"].map(|name| home.path().join(name));
    export(&export_args(&fixture("tiny"), &x.join("m.onnx"), &COPY));
    export(&export_args(&sharded, &y.join("m.onnx"), &COPY));
    assert_eq!(file_bytes(&x), file_bytes(&y));
}

/// Writes tiny in three shards, with the blocks and scales of an expert in different ones.
fn write_openai_shards(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::copy(fixture("tiny/config.json"), folder.join("config.json")).unwrap();
    let (mut shards, mut map) = ([const { Vec::new() }; 3], serde_json::Map::new());
    let file = |shard: usize| format!("model--{:05}-of-00003.safetensors", shard + 1);
    for (at, (name, tensor)) in tiny().into_iter().enumerate() {
        map.insert(name.clone(), json!(file(at % 3)));
        shards[at % 3].push((name, tensor));
    }
    for (at, shard) in shards.into_iter().enumerate() {
        write(&folder.join(file(at)), &shard.into_iter().collect());
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_copied_and_never_referenced() {
    let home = tempfile::tempdir().unwrap();
    let (blob, model) = (home.path().join("blob"), home.path().join("model.onnx"));
    fs::copy(fixture("tiny/model.safetensors"), &blob).unwrap();
    type Link = fn(&Path, &Path) -> std::io::Result<()>;
    let links: [(&str, Link, &str); 2] = [
        ("soft", |from, to| std::os::unix::fs::symlink(from, to), "is a symbolic link"),
        ("hard", |from, to| fs::hard_link(from, to), "several hard links"),
    ];
    for (name, link, expected) in links {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(fixture("tiny/config.json"), folder.join("config.json")).unwrap();
        link(&blob, &folder.join("model.safetensors")).unwrap();
        let in_place = ["--external-data", "in-place"];
        assert_contains(&failure(&export_args(&folder, &model, &in_place)), expected);
        let summary = export(&export_args(&folder, &model, &[]));
        assert_eq!(summary["weights"]["in_place"], false);
        let inspected = export(&["inspect", text(&model)]);
        assert_eq!(inspected["files"][0]["file"], summary["weights"]["files"][0]);
    }
    // Nor is a weights file referenced once it has a second name.
    let inspected = export(&["inspect", text(&model)]);
    let file = home.path().join(inspected["files"][0]["file"].as_str().unwrap());
    fs::hard_link(&file, home.path().join("second")).unwrap();
    let sentence = failure(&export_args(&home.path().join("soft"), &model, &[]));
    for expected in ["several hard links", "remove it or its other links"] {
        assert_contains(&sentence, expected);
    }
}

/// The nearest decimals of this number are easily read one bit off.
#[test]
fn config_numbers_survive_staging_bit_for_bit() {
    let home = folder_with_checkpoint("tiny");
    let [config, file, model] =
        ["checkpoint/config.json", "w.safetensors", "m.onnx"].map(|name| home.path().join(name));
    let edited = fs::read_to_string(&config)
        .unwrap()
        .replace("\"swiglu_limit\": 7.0", "\"swiglu_limit\": 1.8308390760787275e-7");
    assert!(edited.contains("e-7"));
    fs::write(&config, edited).unwrap();
    export(&stage_args(&home.path().join("checkpoint"), &file, &[]));
    export(&staged_args(&file, &model, &[]));
}

#[test]
fn export_into_the_checkpoints_folder_can_be_repeated() {
    let home = folder_with_checkpoint("tiny");
    let folder = home.path().join("checkpoint");
    fs::rename(folder.join("model.safetensors"), folder.join("gpt.safetensors")).unwrap();
    for written in [true, false] {
        let summary = export(&export_args(&folder, &folder.join("model.onnx"), &COPY));
        assert_eq!(summary["weights"]["bytes_written"].as_u64().unwrap() > 0, written);
    }
}
