//! Which files and tensors of a folder are the checkpoint.

use std::fs;
use std::path::Path;

use safetensors::Dtype;

use crate::layout_fixtures::{Tensors, config, home, in_folder, in_layout, write};
use crate::support::{
    Home, assert_contains, assert_ends, cases, export, failure, open, text, words,
};

/// A folder with a config and the tensors of a layout in these files, in turn.
fn in_files(layout: &str, files: &[&str]) -> Home {
    let home = home(&config(), &Tensors::new());
    fs::remove_file(home.join("checkpoint/model.safetensors")).unwrap();
    for (at, file) in files.iter().enumerate() {
        let part = in_layout(layout).into_iter().skip(at).step_by(files.len()).collect();
        write(&home.checkpoint().join(file), &part);
    }
    home
}

fn numbered(names: &str) -> Vec<String> {
    words(names).iter().map(|name| format!("{name}.safetensors")).collect()
}

fn fingerprint(folder: &Path) -> String {
    open(folder).fingerprint().unwrap().to_string()
}

#[test]
fn rotary_frequencies_are_accepted() {
    let expected = fingerprint(&in_folder("hf").checkpoint());
    for name in [
        "model.rotary_emb.inv_freq",
        "model.rotary_emb.original_inv_freq",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "rotary_emb.inv_freq",
    ] {
        let mut tensors = in_layout("hf");
        tensors.insert(name.to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
        let home = home(&config(), &tensors);
        assert_eq!(fingerprint(&home.checkpoint()), expected);
        // A script may ignore them already.
        home.export("m", &["--ignore-tensor", name]);
    }
    for name in ["model.rotary_emb.inv_freq.weight", "inv_freq", "model.xrotary_emb.inv_freq"] {
        let mut tensors = in_layout("hf");
        tensors.insert(name.to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
        let sentence = home(&config(), &tensors).refusal("m", &[]);
        assert_contains(
            &sentence,
            &format!("not part of Hugging Face's layout with MXFP4 experts: `{name}`"),
        );
    }
}

#[test]
fn whole_numbered_sets_need_no_index() {
    let table = "hf | model-00001-of-00002 model-00002-of-00002
        hf | model-00000-of-00002 model-00001-of-00002 model-00002-of-00002
        bf16 | model-00000-of-00002 model-00001-of-00002
        hf | model-00001-of-00001
        split | weights-1-of-3 weights-2-of-3 weights-3-of-3
        hf | anything";
    for [layout, files] in cases(table) {
        let files = numbered(files);
        let home = in_files(layout, &files.iter().map(String::as_str).collect::<Vec<_>>());
        let checkpoint = home.checkpoint();
        assert_eq!(fingerprint(&checkpoint), fingerprint(&in_folder(layout).checkpoint()));
        let (model, _) = home.export("m", &[]);
        export(&["inspect", text(&checkpoint)]);
        assert!(model.exists());
    }
}

#[test]
fn names_what_numbered_sets_lack() {
    let lacks = "has no index, and of the shards that its files belong to it lacks";
    // The files, those that are removed, and the sentence.
    let table = "model-00001-of-00003 model-00002-of-00003 model-00003-of-00003 | model-00002-of-00003 | LACKS `model-00002-of-00003.safetensors`: add what is missing
        model-00001-of-00003 model-00002-of-00003 model-00003-of-00003 | model-00001-of-00003 model-00003-of-00003 | LACKS `model-00001-of-00003.safetensors`, `model-00003-of-00003.safetensors`: add what is missing, or rename the one that is there to model.safetensors if it is the whole checkpoint
        model-00000-of-00002 model-00001-of-00002 model-00002-of-00002 | model-00001-of-00002 | LACKS `model-00001-of-00002.safetensors`: add what is missing
        model-00000-of-00002 model-00001-of-00002 model-00002-of-00002 | model-00000-of-00002 | of the model that its config describes; no index says whether `model-00000-of-00002.safetensors` belongs to it too
        model-00000-of-00002 model-00001-of-00002 model-00002-of-00002 | model-00002-of-00002 | of the model that its config describes; no index says whether `model-00002-of-00002.safetensors` belongs to it too
        model-00001-of-00002 model-00002-of-00002 other | | holds 3 .safetensors files and no model.safetensors.index.json
        model-00001-of-00002 other-00002-of-00002 | | holds 2 .safetensors files
        model-00001-of-00002 model-00002-of-00003 | | holds 2 .safetensors files
        model-00001-of-00002 model-00003-of-00002 | | holds 2 .safetensors files
        model-00011-of-00020 | | `model-00008-of-00020.safetensors` and 11 more: add";
    for [files, removed, expected] in cases(table) {
        let files = numbered(files);
        let home = in_files("hf", &files.iter().map(String::as_str).collect::<Vec<_>>());
        for file in numbered(removed) {
            fs::remove_file(home.checkpoint().join(file)).unwrap();
        }
        let expected = expected.replace("LACKS", lacks);
        let inspected = failure(&["inspect", text(&home.checkpoint())]);
        for sentence in [home.refusal("m", &[]), inspected] {
            assert_contains(&sentence, &expected);
        }
    }
}

#[test]
fn no_tensor_is_twice_in_a_numbered_set() {
    let home = in_files("hf", &["model-00001-of-00002.safetensors"]);
    let [one, two] =
        [1, 2].map(|n| home.checkpoint().join(format!("model-0000{n}-of-00002.safetensors")));
    fs::copy(one, two).unwrap();
    let sentence = home.refusal("m", &[]);
    assert_contains(&sentence, "is both in `");
    assert_ends(&sentence, "model-00002-of-00002.safetensors`");
}
