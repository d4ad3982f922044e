//! Weights: staged, copied, shared, reused, refused; what is where.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    contents, copy_folder, export, failure, fixture, folder_with_tiny, logit_errors, python, text,
};

fn external(model: &Path) -> Vec<Value> {
    python("check.py", &[text(model)], &Value::Null)["external"].as_array().unwrap().clone()
}

#[test]
fn staged_and_direct_are_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let (staged, direct) = (home.path().join("staged"), home.path().join("direct/model.onnx"));
    let (file, model) = (home.path().join("stage/w.safetensors"), staged.join("model.onnx"));
    let summary = export(&[
        "--checkpoint",
        text(&fixture("tiny")),
        "--save-weights",
        text(&file),
        "--skip-onnx",
    ]);
    assert_eq!(summary["model"], Value::Null);
    assert_eq!(contents(file.parent().unwrap()).len(), 1);

    export(&["--weights", text(&file), "--output", text(&model)]);
    export(&["--checkpoint", text(&fixture("tiny")), "--output", text(&direct)]);
    let bytes = |folder: &Path| {
        contents(folder)
            .into_iter()
            .map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(bytes(&staged), bytes(direct.parent().unwrap()));
    let name = format!("weights-{}.safetensors", summary["fingerprint"].as_str().unwrap());
    assert_eq!(fs::read(&file).unwrap(), fs::read(staged.join(name)).unwrap());
}

#[test]
fn a_stage_beside_the_model_is_its_data() {
    let home = tempfile::tempdir().unwrap();
    let (file, model) = (home.path().join("below/w.safetensors"), home.path().join("model.onnx"));
    export(&["--checkpoint", text(&fixture("tiny")), "--save-weights", text(&file), "--skip-onnx"]);
    let summary = export(&["--weights", text(&file), "--output", text(&model)]);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(summary["weights"]["files"], json!(["below/w.safetensors"]));
    assert!(logit_errors(&model, "onnxruntime", &["2x40"])[0] <= 1e-5);

    // Both stages in one run end in the same place.
    let (both, again) =
        (home.path().join("both/w.safetensors"), home.path().join("both/model.onnx"));
    let summary = export(&[
        "--checkpoint",
        text(&fixture("tiny")),
        "--save-weights",
        text(&both),
        "--output",
        text(&again),
    ]);
    assert_eq!(summary["weights"]["files"], json!(["w.safetensors"]));
    assert_eq!(contents(both.parent().unwrap()).len(), 2);
    assert_eq!(fs::read(&file).unwrap(), fs::read(&both).unwrap());
}

#[test]
fn in_place_points_into_the_checkpoint() {
    let home = folder_with_tiny();
    let before = contents(home.path());
    let model = home.path().join("model.onnx");
    let summary =
        export(&["--checkpoint", text(&home.path().join("tiny")), "--output", text(&model)]);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    let mut after = contents(home.path());
    after.retain(|(path, _)| *path != model);
    assert_eq!(before, after);

    // Every range holds the very bytes of a tensor of the checkpoint.
    let bytes = fs::read(fixture("tiny/model.safetensors")).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut theirs: Vec<&[u8]> =
        whole.tensors().iter().map(|(name, _)| whole.tensor(name).unwrap().data()).collect();
    let found = external(&model);
    let mut ours: Vec<&[u8]> = found
        .iter()
        .map(|tensor| {
            assert_eq!(tensor["file"], "tiny/model.safetensors");
            let (offset, length) =
                (tensor["offset"].as_u64().unwrap(), tensor["length"].as_u64().unwrap());
            &bytes[offset as usize..][..length as usize]
        })
        .collect();
    theirs.sort();
    ours.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn a_weights_file_is_whole_safetensors_on_pages() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("w.safetensors");
    export(&["--checkpoint", text(&fixture("tiny")), "--save-weights", text(&file), "--skip-onnx"]);
    let (bytes, source) =
        (fs::read(&file).unwrap(), fs::read(fixture("tiny/model.safetensors")).unwrap());
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((8 + header) % 4096, 0);
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let aligned = 1 << (end - start).trailing_zeros().min(12);
        assert_eq!(start % aligned, 0, "{name} of {} bytes begins at {start}", end - start);
    }
    let (ours, theirs) = (
        safetensors::SafeTensors::deserialize(&bytes).unwrap(),
        safetensors::SafeTensors::deserialize(&source).unwrap(),
    );
    for (name, original) in [
        ("layers.1.mlp.experts.down.blocks", "block.1.mlp.mlp2_weight.blocks"),
        ("layers.2.mlp.router.bias", "block.2.mlp.gate.bias"),
        ("lm_head.weight", "unembedding.weight"),
    ] {
        assert_eq!(ours.tensor(name).unwrap().data(), theirs.tensor(original).unwrap().data());
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn graphs_of_one_checkpoint_share_a_file_that_is_compared() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (home.path().join("a.onnx"), home.path().join("b.onnx"));
    let tiny = fixture("tiny");
    let written = export(&["--checkpoint", text(&tiny), "--output", text(&first)]);
    let reused = export(&["--checkpoint", text(&tiny), "--output", text(&second), "--functions"]);
    assert!(written["weights"]["bytes_written"].as_u64().unwrap() > 0);
    assert_eq!(reused["weights"]["bytes_written"], 0);
    assert_eq!(reused["weights"]["files"], written["weights"]["files"]);
    assert_eq!(contents(home.path()).len(), 3);

    // One byte differs: neither reused nor overwritten.
    let file = home.path().join(written["weights"]["files"][0].as_str().unwrap());
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let before = contents(home.path());
    let sentence = failure(&["--checkpoint", text(&tiny), "--output", text(&second)]);
    assert!(sentence.contains("a graph may be reading it"), "{sentence}");
    assert_eq!(contents(home.path()), before);
}

#[test]
fn fine_tunes_with_equal_headers_never_meet() {
    let home = folder_with_tiny();
    let (base, tuned, out) =
        (home.path().join("tiny"), home.path().join("tuned"), home.path().join("out"));
    copy_folder(&base, &tuned);
    let shard = tuned.join("model.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let a = export(&[
        "--checkpoint",
        text(&base),
        "--output",
        text(&out.join("a.onnx")),
        "--external-data",
        "copy",
    ]);
    let kept = contents(&out);
    let b = export(&[
        "--checkpoint",
        text(&tuned),
        "--output",
        text(&out.join("b.onnx")),
        "--external-data",
        "copy",
    ]);
    assert_ne!(a["fingerprint"], b["fingerprint"]);
    assert!(kept.iter().all(|file| contents(&out).contains(file)));
    assert_eq!(contents(&out).len(), 4);
}

#[test]
fn shards_are_joined_by_their_index() {
    let home = tempfile::tempdir().unwrap();
    let sharded = home.path().join("sharded");
    shard(&fixture("tiny"), &sharded, 3);
    let model = home.path().join("model.onnx");
    let summary = export(&["--checkpoint", text(&sharded), "--output", text(&model)]);
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
    assert!(logit_errors(&model, "onnxruntime", &["2x40"])[0] <= 1e-5);

    // The same weights, whichever files they come from.
    let whole = export(&[
        "--checkpoint",
        text(&fixture("tiny")),
        "--output",
        text(&home.path().join("x/a.onnx")),
    ]);
    let joined = export(&[
        "--checkpoint",
        text(&sharded),
        "--output",
        text(&home.path().join("y/a.onnx")),
        "--external-data",
        "copy",
    ]);
    assert_eq!(whole["fingerprint"], joined["fingerprint"]);
    let bytes = |folder| {
        contents(&home.path().join(folder)).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    assert_eq!(bytes("x"), bytes("y"));
}

/// Deals the tensors of a checkpoint out to shards, so that the blocks and the
/// scales of an expert lie apart.
fn shard(from: &Path, to: &Path, count: usize) {
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<String> = whole.names().iter().map(ToString::to_string).collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for part in 0..count {
        let file = format!("model--{:05}-of-{count:05}.safetensors", part + 1);
        let mine: Vec<_> = names
            .iter()
            .skip(part)
            .step_by(count)
            .map(|name| (name, whole.tensor(name).unwrap()))
            .collect();
        map.extend(mine.iter().map(|(name, _)| ((*name).clone(), json!(file))));
        safetensors::serialize_to_file(mine, None, &to.join(file)).unwrap();
    }
    fs::write(
        to.join("model.safetensors.index.json"),
        json!({"metadata": {}, "weight_map": map}).to_string(),
    )
    .unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_copied_and_never_referenced() {
    use std::os::unix::fs::symlink;
    let home = tempfile::tempdir().unwrap();
    let (soft, hard) = (home.path().join("soft"), home.path().join("hard"));
    for folder in [&soft, &hard] {
        fs::create_dir(folder).unwrap();
        fs::copy(fixture("tiny/config.json"), folder.join("config.json")).unwrap();
    }
    let blob = home.path().join("blob");
    fs::copy(fixture("tiny/model.safetensors"), &blob).unwrap();
    symlink(&blob, soft.join("model.safetensors")).unwrap();
    let model = home.path().join("model.onnx");
    let sentence = failure(&[
        "--checkpoint",
        text(&soft),
        "--output",
        text(&model),
        "--external-data",
        "in-place",
    ]);
    assert!(sentence.contains("is a symbolic link"), "{sentence}");
    let summary = export(&["--checkpoint", text(&soft), "--output", text(&model)]);
    assert_eq!(summary["weights"]["in_place"], false);

    fs::hard_link(&blob, hard.join("model.safetensors")).unwrap();
    let sentence = failure(&[
        "--checkpoint",
        text(&hard),
        "--output",
        text(&model),
        "--external-data",
        "in-place",
    ]);
    assert!(sentence.contains("several hard links"), "{sentence}");
    let summary = export(&["--checkpoint", text(&hard), "--output", text(&model)]);
    assert_eq!(summary["weights"]["in_place"], false);
    assert_eq!(external(&model)[0]["file"], summary["weights"]["files"][0]);

    // Nor is a file of ours, once it has a second name.
    let file = home.path().join(summary["weights"]["files"][0].as_str().unwrap());
    fs::hard_link(&file, home.path().join("second")).unwrap();
    let sentence = failure(&["--checkpoint", text(&soft), "--output", text(&model)]);
    assert!(
        sentence.contains("several hard links")
            && sentence.contains("remove it or its other links"),
        "{sentence}"
    );
}

/// Layers cut off at either stage are cut off alike.
#[test]
fn some_layers_staged_are_some_layers_exported() {
    let home = tempfile::tempdir().unwrap();
    let tiny = fixture("tiny");
    let path = |name: &str| home.path().join(name);
    export(&[
        "--checkpoint",
        text(&tiny),
        "--save-weights",
        text(&path("two.safetensors")),
        "--skip-onnx",
        "--layers",
        "2",
    ]);
    export(&["--weights", text(&path("two.safetensors")), "--output", text(&path("a/m.onnx"))]);
    export(&["--checkpoint", text(&tiny), "--output", text(&path("b/m.onnx")), "--layers", "2"]);
    let bytes = |folder: &str| {
        contents(&path(folder)).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    assert_eq!(bytes("a"), bytes("b"));
}

/// A number whose nearest decimals are easily read one bit off.
#[test]
fn every_bit_of_a_config_survives_the_stage() {
    let home = folder_with_tiny();
    let config = home.path().join("tiny/config.json");
    let edited = fs::read_to_string(&config)
        .unwrap()
        .replace("\"swiglu_limit\": 7.0", "\"swiglu_limit\": 1.8308390760787275e-7");
    assert!(edited.contains("e-7"));
    fs::write(&config, edited).unwrap();
    let (file, model) = (home.path().join("w.safetensors"), home.path().join("m.onnx"));
    export(&[
        "--checkpoint",
        text(&home.path().join("tiny")),
        "--save-weights",
        text(&file),
        "--skip-onnx",
    ]);
    export(&["--weights", text(&file), "--output", text(&model)]);
}

#[test]
fn an_export_into_the_checkpoints_folder_can_be_repeated() {
    let home = folder_with_tiny();
    let folder = home.path().join("tiny");
    fs::rename(folder.join("model.safetensors"), folder.join("gpt.safetensors")).unwrap();
    let model = folder.join("model.onnx");
    for written in [true, false] {
        let summary = export(&[
            "--checkpoint",
            text(&folder),
            "--output",
            text(&model),
            "--external-data",
            "copy",
        ]);
        assert_eq!(summary["weights"]["bytes_written"].as_u64().unwrap() > 0, written);
    }
}

/// Blocks that rows do not fill: what a damaged or foreign staged file may claim.
#[test]
fn a_staged_file_of_integers_has_whole_blocks() {
    let home = tempfile::tempdir().unwrap();
    let (file, model) = (home.path().join("w.safetensors"), home.path().join("m.onnx"));
    let tiny = fixture("tiny-128");
    let stage = ["--checkpoint", text(&tiny), "--save-weights", text(&file), "--skip-onnx"];
    export(&[&stage[..], &["--experts", "int8"]].concat());
    let bytes = fs::read(&file).unwrap();
    let key = b"\\\"hidden_size\\\":128";
    let at = bytes.windows(key.len()).position(|found| found == key).unwrap();
    let mut claims = bytes;
    claims[at + key.len() - 1] = b'0';
    fs::write(&file, claims).unwrap();
    let sentence = failure(&["--weights", text(&file), "--output", text(&model)]);
    let expected = "`hidden_size` is a multiple of 32, the length of a block: found 120";
    assert!(sentence.ends_with(expected), "{sentence}");
}
