//! Weights files: staged, copied, shared, reused; and which bytes a model refers to.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::layout_fixtures::{edit_config, edited, tiny, write_shards};
use crate::support::{
    Home, assert_contains, assert_ends, binary, contents, export, export_args, failure, fixture,
    flip_last_bit, printed, read_json, resize, run, staged_args, summary, text, weights_metadata,
};

const COPY: [&str; 2] = ["--external-data", "copy"];

fn file_bytes(folder: &Path) -> Vec<Vec<u8>> {
    contents(folder).into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn staged_and_direct_exports_are_equal() {
    for (layers, metadata) in [
        (&["--layers", "2"][..], None),
        // Fuzzing starts from it.
        (&[], Some(include_str!("../fuzz/corpus/metadata/tiny"))),
    ] {
        let home = Home::with("tiny");
        let (file, summary) = home.stage("stage/w", layers);
        assert_eq!(summary["model"], Value::Null);
        assert_eq!(contents(&home.join("stage")).len(), 1);
        home.export_staged(&file, "staged/m", &[]);
        home.export("direct/m", &[layers, &COPY].concat());
        let [staged, direct] = ["staged", "direct"].map(|name| home.join(name));
        assert_eq!(file_bytes(&staged), file_bytes(&direct));
        let name = format!("weights-{}.safetensors", summary["fingerprint"].as_str().unwrap());
        for folder in [&staged, &direct] {
            assert_eq!(fs::read(&file).unwrap(), fs::read(folder.join(&name)).unwrap());
        }
        assert!(metadata.is_none_or(|corpus| weights_metadata(&file).trim_end() == corpus));
    }
}

#[test]
fn staged_file_beside_model_is_its_data() {
    let home = Home::with("tiny");
    let (file, _) = home.stage("below/w", &[]);
    let (_, summary) = home.export_staged(&file, "model", &[]);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(summary["weights"]["files"], json!(["below/w.safetensors"]));

    // Both stages in one run.
    let again = home.join("both/w.safetensors");
    let (_, summary) = home.export("both/model", &["--save-weights", text(&again)]);
    assert_eq!(summary["weights"]["files"], json!(["w.safetensors"]));
    assert_eq!(contents(&home.join("both")).len(), 2);
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn in_place_export_refers_to_the_checkpoints_bytes() {
    let home = Home::with("tiny");
    let before = contents(&home);
    let (model, summary) = home.export("model", &[]);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    let mut after = contents(&home);
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
    let home = Home::with("tiny");
    let bytes = fs::read(home.stage("w", &[]).0).unwrap();
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
    let (home, checkpoint) = (Home::new(), fixture("tiny"));
    let (first, second) = (home.join("a.onnx"), home.join("b.onnx"));
    let written = export(&export_args(&checkpoint, &first, &[]));
    let reused = export(&export_args(&checkpoint, &second, &["--functions"]));
    assert!(written["weights"]["bytes_written"].as_u64().unwrap() > 0);
    assert_eq!(reused["weights"]["bytes_written"], 0);
    assert_eq!(reused["weights"]["files"], written["weights"]["files"]);
    assert_eq!(contents(&home).len(), 3);

    // A fine-tune, whose headers are equal, has a file of its own.
    let tuned = edited(|folder| flip_last_bit(&folder.join("model.safetensors")));
    let before = contents(&home);
    export(&export_args(&tuned.checkpoint(), &home.join("c.onnx"), &[]));
    assert!(before.iter().all(|file| contents(&home).contains(file)));
    assert_eq!(contents(&home).len(), 5);

    flip_last_bit(&home.join(written["weights"]["files"][0].as_str().unwrap()));
    let before = contents(&home);
    let sentence = failure(&export_args(&checkpoint, &second, &[]));
    let readers = ["a.onnx", "b.onnx"].map(|name| home.join(name).display().to_string());
    let advice = format!(
        "a damaged copy): `{}`, `{}` read it; choose another folder, or delete it and export those models again",
        readers[0], readers[1]
    );
    assert_contains(&sentence, &advice);
    assert_eq!(contents(&home), before);
}

#[test]
fn shards_are_joined_by_their_index() {
    let home = Home::new();
    write_shards(&home.checkpoint(), &read_json(&fixture("tiny/config.json")), tiny());
    let (_, summary) = home.export("model", &[]);
    assert_eq!(summary["weights"]["files"].as_array().unwrap().len(), 3);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    // The same weights, whichever files they come from.
    home.export("joined/m", &COPY);
    export(&export_args(&fixture("tiny"), &home.join("whole/m.onnx"), &COPY));
    assert_eq!(file_bytes(&home.join("joined")), file_bytes(&home.join("whole")));
}

#[cfg(unix)]
#[test]
fn links_are_copied_and_never_referenced() {
    type Link = fn(&Path, &Path) -> std::io::Result<()>;
    let home = Home::new();
    let (blob, model) = (home.join("blob"), home.join("model.onnx"));
    fs::copy(fixture("tiny/model.safetensors"), &blob).unwrap();
    let links: [(&str, Link, &str); 2] = [
        ("soft", |from, to| std::os::unix::fs::symlink(from, to), "is a symbolic link"),
        ("hard", |from, to| fs::hard_link(from, to), "several hard links"),
    ];
    for (name, link, expected) in links {
        let folder = home.join(name);
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
    let file = home.join(inspected["files"][0]["file"].as_str().unwrap());
    fs::hard_link(&file, home.join("second")).unwrap();
    let sentence = failure(&export_args(&home.join("soft"), &model, &[]));
    assert_contains(&sentence, "several hard links");
    assert_contains(&sentence, "; choose another folder");
}

/// The nearest decimals of this number are easily read one bit off.
#[test]
fn config_numbers_survive_staging_bit_for_bit() {
    let limit = "\"swiglu_limit\": 1.8308390760787275e-7";
    let home = edited(|folder| edit_config(folder, "\"swiglu_limit\": 7.0", limit));
    let (staged, _) = home.stage("w", &[]);
    home.export_staged(&staged, "m", &[]);
}

#[test]
fn export_into_the_checkpoints_folder_can_be_repeated() {
    let home = Home::with("tiny");
    let folder = home.checkpoint();
    fs::rename(folder.join("model.safetensors"), folder.join("gpt.safetensors")).unwrap();
    for written in [true, false] {
        let (_, summary) = home.export("checkpoint/model", &COPY);
        assert_eq!(summary["weights"]["bytes_written"].as_u64().unwrap() > 0, written);
    }
}

/// A staged file that is truncated, changed or given as a checkpoint, and what to do.
#[test]
fn folders_of_exports_name_their_weights() {
    let home = Home::with("tiny");
    let (model, summary) = home.export("out/model", &["--external-data", "copy"]);
    let weights = summary["weights"]["written"][0].as_str().unwrap();
    let folder = Path::new(weights).parent().unwrap();
    let sentence = failure(&export_args(folder, &model, &[]));
    let expected = format!(
        "holds no config.json, but weights that an export wrote: give `{weights}` in its place"
    );
    assert_contains(&sentence, &expected);
    run(&staged_args(Path::new(weights), &model, &[]));
}

#[test]
fn staged_files_are_named_as_such() {
    let home = Home::with("tiny");
    let (staged, _) = home.stage("w", &[]);
    let model = home.join("m.onnx");
    let sentence = failure(&export_args(&staged, &model, &[]));
    let expected = format!(
        "`{0}` is a staged weights file, expected a checkpoint's folder: give it as the weights instead; pass --weights {0}",
        text(&staged)
    );
    assert_eq!(sentence, expected);
    let note = "as it was staged, as far as lengths and samples tell";
    assert_contains(&printed(&mut binary(&staged_args(&staged, &model, &[]))), note);
    let direct = home.printed_summary("m", &[]);
    assert!(!direct.contains(note), "{direct}");
    let whole = fs::metadata(&staged).unwrap().len();
    resize(&staged, |length| length - 1000);
    let sentence = failure(&staged_args(&staged, &model, &[]));
    let end = format!(
        "` has {} bytes, but its header describes {whole}: stage it, or export it, again",
        whole - 1000
    );
    assert_ends(&sentence, &end);
    assert_ends(&failure(&["inspect", text(&staged)]), &end);
    // That of a checkpoint comes from elsewhere.
    let single = home.join("checkpoint/model.safetensors");
    resize(&single, |length| length - 1000);
    assert_ends(&home.refusal("m", &[]), ": download it again");
}

/// The size that is recommended is accepted.
#[test]
fn smallest_shard_size_is_told_at_once() {
    let home = Home::with("tiny");
    for (size, options) in [("1", &[][..]), ("5000", &["--experts", "int4"]), ("60kB", &[])] {
        let with = |size: &str| {
            let all = [&["--max-shard-size", size], options].concat();
            let model = home.join("out/m.onnx");
            run(&export_args(&home.checkpoint(), &model, &all))
        };
        let refused = with(size);
        assert_eq!(refused.status.code(), Some(1), "{size}");
        let sentence = String::from_utf8(refused.stderr).unwrap();
        let (_, enough) = sentence.trim_end().rsplit_once("--max-shard-size ").unwrap();
        assert!(with(enough).status.success(), "{sentence}");
        let less = (enough.parse::<u64>().unwrap() - 1).to_string();
        assert!(!with(&less).status.success(), "{sentence}");
    }
}

/// What happened to the weights beside a model, and what an export says of them; without a
/// sentence it writes them anew.
#[test]
fn export_again_replaces_weights_that_no_model_can_read() {
    type Damage = fn(&Path);
    let cut: Damage = |path| resize(path, |length| length / 2);
    let differs = "exists and differs from the file to write (other weights, another format, or a damaged copy): `";
    let damages: [(Damage, &str); 7] = [
        (cut, ""),
        (|path| resize(path, |_| 0), ""),
        (|path| fs::write(path, "version https://git-lfs.github.com/spec/v1").unwrap(), ""),
        (|path| fs::write(path, "<!DOCTYPE html>").unwrap(), ""),
        (flip_last_bit, differs),
        (|path| resize(path, |length| length + 1), differs),
        (
            |path| {
                fs::write(path, fs::read(fixture("tiny-1-kv/model.safetensors")).unwrap()).unwrap();
            },
            differs,
        ),
    ];
    for (damage, expected) in damages {
        let home = Home::with("tiny");
        let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
        let options = ["--external-data", "copy", "--json"];
        let arguments = export_args(&checkpoint, &model, &options);
        let written = summary(&mut binary(&arguments))["weights"]["written"][0].clone();
        let weights = Path::new(written.as_str().unwrap());
        let original = fs::read(weights).unwrap();
        damage(weights);
        if !expected.is_empty() {
            assert_contains(&failure(&arguments), expected);
            fs::remove_file(weights).unwrap();
        }
        export(&export_args(&checkpoint, &model, &options[..2]));
        assert!(fs::read(weights).unwrap() == original);
    }
}
