//! Which files and tensors of a folder are the checkpoint.

use std::collections::BTreeMap;
use std::fs;

use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use safetensors::Dtype;
use serde_json::json;

use crate::layout_fixtures::{Tensors, config, home, in_folder, in_layout, write, write_index};
use crate::support::{
    Home, assert_contains, assert_ends, assert_same, cases, export, failure, text, words,
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

#[test]
fn rotary_frequencies_are_accepted() {
    let expected = in_folder("hf").fingerprint();
    for name in [
        "model.rotary_emb.inv_freq",
        "model.rotary_emb.original_inv_freq",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "rotary_emb.inv_freq",
    ] {
        let mut tensors = in_layout("hf");
        tensors.insert(name.to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
        let home = home(&config(), &tensors);
        assert_eq!(home.fingerprint(), expected);
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
        assert_eq!(home.fingerprint(), in_folder(layout).fingerprint());
        let (model, _) = home.export("m", &[]);
        export(&["inspect", text(&home.checkpoint())]);
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
        model-00000-of-00002 model-00001-of-00002 model-00002-of-00002 | model-00000-of-00002 | or download this one again; no index says whether `model-00000-of-00002.safetensors` belongs to it too
        model-00000-of-00002 model-00001-of-00002 model-00002-of-00002 | model-00002-of-00002 | or download this one again; no index says whether `model-00002-of-00002.safetensors` belongs to it too
        model-00001-of-00002 model-00002-of-00002 other | | holds 3 .safetensors files and no model.safetensors.index.json
        model-00001-of-00002 other-00002-of-00002 | | holds 2 .safetensors files
        shard-00000-model-00001-of-00001 shard-00001-model-00001-of-00001 | | with those of the checkpoint alone, under the names `model-00001-of-00002.safetensors` to `model-00002-of-00002.safetensors` if there are 2
        model-rank-0-part-0 model-rank-1-part-0 | | model-rank-0-part-0.safetensors` is a part of vLLM's sharded state, with a slice of each tensor for one process: use the SafeTensors checkpoint
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
    assert_ends(
        &sentence,
        "model-00002-of-00002.safetensors`, which are of different saves: copy all shards of one save again, or add the index that says which counts",
    );
}

/// Tensors by the files that hold them, and an index that finds them where `find` says.
fn indexed(files: &[(&str, Tensors)], index: &BTreeMap<String, &str>) -> Home {
    let home = in_files("hf", &[]);
    for (file, tensors) in files {
        write(&home.checkpoint().join(file), tensors);
    }
    write_index(&home.checkpoint(), index);
    home
}

fn all_in<'f>(tensors: &Tensors, file: &'f str) -> BTreeMap<String, &'f str> {
    tensors.keys().map(|name| (name.clone(), file)).collect()
}

#[test]
fn the_index_decides_between_copies_of_a_tensor() {
    for overlaid in ["model.norm.weight", "model.layers.1.mlp.router.weight", "lm_head.weight"] {
        let old = in_layout("hf");
        let mut changed = old.clone();
        changed.get_mut(overlaid).unwrap().2.fill(1);
        let overlay = Tensors::from([(overlaid.to_owned(), changed[overlaid].clone())]);
        for base in ["model.safetensors", "base.safetensors"] {
            let files = [(base, old.clone()), ("overlay.safetensors", overlay.clone())];
            let mut index = all_in(&old, base);
            index.insert(overlaid.to_owned(), "overlay.safetensors");
            let home_of = |tensors| home(&config(), tensors).fingerprint();
            let found = indexed(&files, &index);
            assert_eq!(found.fingerprint(), home_of(&changed));
            // The other way round, if the index names both files.
            let spare = Tensors::from([("spare".to_owned(), overlay[overlaid].clone())]);
            let files = [
                (base, old.clone()),
                ("overlay.safetensors", [overlay.clone(), spare].into_iter().flatten().collect()),
            ];
            index.insert(overlaid.to_owned(), base);
            index.insert("spare".to_owned(), "overlay.safetensors");
            let home = indexed(&files, &index);
            let names =
                IgnoredNames { tensors: vec!["spare".to_owned()], ..IgnoredNames::default() };
            let opened = Checkpoint::open(&home.checkpoint(), &names).unwrap();
            assert_eq!(opened.samples().unwrap().fingerprint.to_string(), home_of(&old));
        }
    }
}

#[test]
fn needless_entries_of_an_index_can_be_ignored() {
    // Entries, their shard, how the sentence ends, and what else has the same effect.
    let table = "mtp.fc.weight | w.safetensors | index.json` says that tensor `mtp.fc.weight` is in `w.safetensors`, which does not hold it: download both again, or delete the index if the shards hold all tensors; the model does not use `mtp.fc.weight`: ignore what the index names in vain, by name or by a pattern with * and ?; pass --ignore-tensor mtp.fc.weight | mtp.*
        mtp.fc.weight mtp.norm.weight | w.safetensors | does not use `mtp.fc.weight`, `mtp.norm.weight`: ignore what the index names in vain, by name or by a pattern with * and ?; pass --ignore-tensor 'mtp.*' | *
        mtp.fc.weight | mtp.safetensors | index.json` names the shard `mtp.safetensors`, which is missing: add it; the model does not use `mtp.fc.weight`: ignore what the index names in vain, by name or by a pattern with * and ?; pass --ignore-tensor mtp.fc.weight | mtp*";
    let tensors = in_layout("hf");
    for [entries, shard, expected, other] in cases(table) {
        let mut index = all_in(&tensors, "w.safetensors");
        index.extend(words(entries).iter().map(|entry| ((*entry).to_owned(), shard)));
        let home = indexed(&[("w.safetensors", tensors.clone())], &index);
        let sentence = home.refusal("m", &[]);
        assert_ends(&sentence, expected);
        let (_, advised) = sentence.rsplit_once(' ').unwrap();
        for ignored in [advised.trim_matches(['\'', '"']), other] {
            home.export("m", &["--ignore-tensor", ignored]);
            export(&["inspect", text(&home.checkpoint()), "--ignore-tensor", ignored]);
        }
    }
}

/// A shard of another save in the place of one.
#[test]
fn shards_of_different_saves_are_told_apart() {
    for (ours, theirs, part) in [
        ("bf16", "hf", "layers.1.mlp.experts."),
        ("hf", "bf16", "layers.2.mlp.experts."),
        ("bf16", "linears", "layers.0.mlp.experts."),
    ] {
        let split = |layout| -> (Tensors, Tensors) {
            in_layout(layout).into_iter().partition(|(name, _)| name.contains(part))
        };
        let [(own, rest), (other, _)] = [split(ours), split(theirs)];
        let mut index = all_in(&rest, "rest.safetensors");
        index.extend(all_in(&own, "part.safetensors"));
        let home = indexed(&[("rest.safetensors", rest), ("part.safetensors", other)], &index);
        let sentence = home.refusal("m", &[]);
        assert_contains(
            &sentence,
            "in `part.safetensors`, which holds others such as `model.layers.",
        );
        assert_ends(
            &sentence,
            "`: they are of different saves, use the index and the shards of one",
        );
        assert!(!sentence.contains("--ignore-tensor"), "{sentence}");
    }
}

/// A shard under a changed name is told by its tensors, whatever the name.
#[cfg_attr(windows, ignore = "file names have no case")]
#[test]
fn shards_under_changed_names_are_told() {
    let shard = "model-00002-of-00002.safetensors";
    let table = [
        ("model-00002-of-00002 (1).safetensors", true),
        ("model-00002-of-00002(2).safetensors", true),
        ("model-00002-of-00002 copy.safetensors", true),
        ("Model-00002-of-00002.SafeTensors", true),
        ("model_00002-of-00002.safetensors", true),
        ("model-00002-of-00002.safetensors.txt", true),
        ("model-00003-of-00002.safetensors", true),
        ("consolidated.safetensors", true),
        // Some of its tensors alone.
        ("model-00002-of-00002 (3).safetensors", false),
    ];
    for (name, has_its_tensors) in table {
        let first = "model-00001-of-00002.safetensors";
        let (own, rest): (Tensors, Tensors) =
            in_layout("hf").into_iter().partition(|(name, _)| name.contains("layers.1."));
        let mut index = all_in(&rest, first);
        index.extend(all_in(&own, shard));
        let home = indexed(&[(first, rest), (shard, own.clone())], &index);
        let [from, to] = [shard, name].map(|name| home.checkpoint().join(name));
        fs::rename(&from, &to).unwrap();
        if !has_its_tensors {
            let some = own.into_iter().skip(1).collect();
            write(&to, &some);
        }
        let sentence = home.refusal("m", &[]);
        if has_its_tensors {
            let is_there = "which is there under another name: rename";
            let expected = format!("names the shard `{shard}`, {is_there} `{name}` to `{shard}`");
            assert_ends(&sentence, &expected);
            fs::rename(to, from).unwrap();
            home.export("m", &[]);
        } else {
            let missing = format!("names the shard `{shard}`, which is missing: add it");
            assert_ends(&sentence, &missing);
        }
    }
}

/// Without an index the names tell, if the set is whole with them.
#[cfg_attr(windows, ignore = "file names have no case")]
#[test]
fn sets_with_changed_names_are_told() {
    // The names that the files of a set have, and the sentence.
    let table = "model-00001-of-00002 (1).safetensors, model-00002-of-00002.safetensors | rename `model-00001-of-00002 (1).safetensors` to `model-00001-of-00002.safetensors`
        model-00001-of-00002 (1).safetensors, model-00002-of-00002 (1).safetensors | rename `model-00001-of-00002 (1).safetensors` to `model-00001-of-00002.safetensors`, `model-00002-of-00002 (1).safetensors` to `
        model-00001-of-00002.safetensors, model-00002-of-00002.safetensors.bak | rename `model-00002-of-00002.safetensors.bak` to `model-00002-of-00002.safetensors`
        Model-00001-of-00002.SafeTensors, model-00002-of-00002 - Copy.safetensors | rename `Model-00001-of-00002.SafeTensors` to `model-00001-of-00002.safetensors`, `model-00002-of-00002 - Copy.safetensors` to `";
    for [names, expected] in cases(table) {
        let files: Vec<String> =
            (1..3).map(|n| format!("model-0000{n}-of-00002.safetensors")).collect();
        let home = in_files("hf", &files.iter().map(String::as_str).collect::<Vec<_>>());
        let path = |name: &str| home.checkpoint().join(name);
        let renamed = || files.iter().zip(names.split(", "));
        renamed().for_each(|(from, to)| fs::rename(path(from), path(to)).unwrap());
        let start = "holds a set of shards of which some have other names: ";
        assert_contains(&home.refusal("m", &[]), &format!("{start}{expected}"));
        renamed().for_each(|(to, from)| fs::rename(path(from), path(to)).unwrap());
        home.export("m", &[]);
    }
}

#[test]
fn entries_that_the_model_uses_cannot_be_ignored() {
    let table = "model.norm.weight | w.safetensors | says that tensor `model.norm.weight` is in `w.safetensors`, which does not hold it: download both again, or delete the index if the shards hold all tensors
        model.layers.0.mlp.experts.down_proj_blocks | w.safetensors | says that tensor `model.layers.0.mlp.experts.down_proj_blocks` is in `w.safetensors`, which does not hold it: download both again, or delete the index if the shards hold all tensors
        model.norm.weight | absent.safetensors | names the shard `absent.safetensors`, which is missing: add it";
    for [name, shard, expected] in cases(table) {
        let mut tensors = in_layout("hf");
        let mut index = all_in(&tensors, "w.safetensors");
        tensors.remove(name);
        index.insert(name.to_owned(), shard);
        let home = indexed(&[("w.safetensors", tensors)], &index);
        for options in [&[][..], &["--ignore-tensor", name]] {
            assert_ends(&home.refusal("m", options), expected);
        }
    }
}

#[test]
fn tied_lm_heads_are_copies_or_ambiguous() {
    let embedding = in_layout("hf")["model.embed_tokens.weight"].clone();
    let mut tied = config();
    tied["tie_word_embeddings"] = json!(true);
    let mut alone = in_layout("hf");
    alone.remove("lm_head.weight");
    let expected = home(&tied, &alone).fingerprint();
    let with = |lm_head| {
        let mut tensors = alone.clone();
        tensors.insert("lm_head.weight".to_owned(), lm_head);
        home(&tied, &tensors)
    };
    assert_eq!(with(embedding.clone()).fingerprint(), expected);
    with(embedding.clone()).export("m", &["--ignore-tensor", "lm_head.weight"]);
    let [mut last_bit, mut dtype, mut shape] = [(); 3].map(|()| embedding.clone());
    *last_bit.2.last_mut().unwrap() ^= 1;
    dtype.0 = Dtype::F16;
    shape.1.reverse();
    for lm_head in [in_layout("hf")["lm_head.weight"].clone(), last_bit, dtype, shape] {
        let home = with(lm_head);
        let sentence = home.refusal("m", &[]);
        let path = home.checkpoint().display().to_string();
        assert_same(
            &sentence,
            &format!(
                "`{path}/config.json` ties lm_head to the embedding (`tie_word_embeddings`), and `{path}/model.safetensors` holds another `lm_head.weight`: transformers 4 computes with the embedding, transformers 5 with the stored tensor; to use the stored tensor, set `tie_word_embeddings` to false in `{path}/config.json`; to use the embedding, ignore `lm_head.weight`; pass --ignore-tensor lm_head.weight"
            ),
        );
        let names =
            IgnoredNames { tensors: vec!["lm_head.weight".to_owned()], ..IgnoredNames::default() };
        let opened = Checkpoint::open(&home.checkpoint(), &names).unwrap();
        assert_eq!(opened.samples().unwrap().fingerprint.to_string(), expected);
    }
}

#[test]
fn files_beside_the_checkpoint_are_told() {
    for (beside, told) in [
        ("model_merged.safetensors", true),
        ("model (1).safetensors", true),
        ("model-00001-of-00002.safetensors", true),
        ("notes.txt", false),
    ] {
        let home = in_folder("hf");
        let checkpoint = home.checkpoint();
        fs::copy(checkpoint.join("model.safetensors"), checkpoint.join(beside)).unwrap();
        let (_, summary) = home.export("m", &[]);
        let note = format!("not used: the other SafeTensors files `{beside}`");
        assert_eq!(summary["notes"], if told { json!([note]) } else { json!([]) });
    }
    // Files that an export wrote are none.
    let home = in_folder("hf");
    home.stage("checkpoint/staged", &[]);
    let (_, summary) = home.export("m", &[]);
    assert_eq!(summary["layout"], "Hugging Face's layout with MXFP4 experts");
    assert_eq!(summary["notes"], json!([]));
}
