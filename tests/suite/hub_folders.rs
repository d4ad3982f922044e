//! Which folder holds what of a hub, and what is known of it without asking.

use std::fs;
use std::path::Path;

use crate::double::{COMMIT, Double};
use crate::hub::{files, repository};
use crate::hub_faults::setting;
use crate::support::{contents, export, text};

/// A repository of the tiny model with its weights in a file of this name.
fn with_weights_as(name: &str, changed: bool) -> tempfile::TempDir {
    let there = repository();
    let original = there.path().join("original");
    let mut bytes = fs::read(original.join("model.safetensors")).unwrap();
    let last = bytes.last_mut().unwrap();
    *last ^= u8::from(changed);
    fs::remove_file(original.join("model.safetensors")).unwrap();
    fs::write(original.join(name), bytes).unwrap();
    there
}

/// One of the two is left from an earlier save, and nobody can say which.
#[test]
fn an_index_beside_other_weights_is_ambiguous_on_the_hub_too() {
    let there = with_weights_as("shard.safetensors", false);
    let original = there.path().join("original");
    fs::copy(original.join("shard.safetensors"), original.join("model.safetensors")).unwrap();
    fs::write(
        original.join("model.safetensors.index.json"),
        r#"{"weight_map": {"embedding.weight": "shard.safetensors"}}"#,
    )
    .unwrap();
    let (hub, here) = (Double::serving(there.path()), tempfile::tempdir().unwrap());
    let model = here.path().join("m.onnx");
    let arguments = ["--checkpoint", "owner/tiny/original", "--output", text(&model)];
    let sentence = hub.failure(&arguments);
    assert!(sentence.contains("programs differ in which they read"), "{sentence}");
    assert!(hub.requests(".safetensors").is_empty(), "nothing was fetched for it");
    fs::remove_file(original.join("model.safetensors")).unwrap();
    Double::serving(there.path()).export(&arguments);
}

#[test]
fn a_folder_holds_one_repository() {
    let here = tempfile::tempdir().unwrap();
    let (alices, bobs) =
        (with_weights_as("model.safetensors", false), with_weights_as("weights.safetensors", true));
    let (alice, bob) = (
        Double::serving_as("alice/tiny", alices.path()),
        Double::serving_as("bob/tiny", bobs.path()),
    );
    let folder = here.path().join("shared");
    let export = |hub: &Double, name: &str, extra: &[&str]| {
        let output = here.path().join(format!("{}.onnx", &name[..3]));
        let base = ["--checkpoint", name, "--output", text(&output)];
        hub.command(&[&base[..], extra].concat()).output().unwrap()
    };
    let shared = ["--download-dir", text(&folder)];
    assert!(export(&alice, "alice/tiny/original", &shared).status.success());
    let before = contents(&folder);
    let refused = export(&bob, "bob/tiny/original", &shared);
    let sentence = bob.sentence(&refused);
    assert!(
        sentence.ends_with("shared` holds files of `alice/tiny`: name another --download-dir"),
        "{sentence}"
    );
    assert_eq!(contents(&folder), before);

    // Each by itself, whatever the files are called: different weights.
    let [one, other] =
        [(&alice, "alice/tiny/original"), (&bob, "bob/tiny/original")].map(|(hub, name)| {
            let output = export(hub, name, &["--json"]);
            let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            summary["fingerprint"].clone()
        });
    assert_ne!(one, other);
}

#[test]
fn the_listing_says_which_files_are_the_checkpoint() {
    let here = tempfile::tempdir().unwrap();
    let there = with_weights_as("weights.safetensors", true);
    let hub = Double::serving_as("bob/tiny", there.path());
    let folder = here.path().join("bob--tiny/original");
    fs::create_dir_all(&folder).unwrap();
    // What lies there besides, and would be taken in a folder that nobody listed.
    fs::copy(
        repository().path().join("original/model.safetensors"),
        folder.join("model.safetensors"),
    )
    .unwrap();
    fs::write(
        folder.join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "old.safetensors"}}"#,
    )
    .unwrap();
    let model = here.path().join("model.onnx");
    let summary = hub.export(&["--checkpoint", "bob/tiny/original", "--output", text(&model)]);
    assert_eq!(
        summary["weights"]["files"],
        serde_json::json!(["bob--tiny/original/weights.safetensors"])
    );
    let alone = here.path().join("alone");
    fs::create_dir(&alone).unwrap();
    for file in ["config.json", "weights.safetensors"] {
        fs::copy(folder.join(file), alone.join(file)).unwrap();
    }
    let expected = export(&["--checkpoint", text(&alone), "--output", text(&model)]);
    assert_eq!(summary["fingerprint"], expected["fingerprint"]);
}

#[test]
fn offline_takes_what_was_asked_for_and_nothing_else() {
    let it = setting();
    it.hub.export(&it.arguments());
    let folder = it.here.path().join("owner--tiny");
    let output = text(&it.model);
    let try_offline = |name: &str| {
        it.hub
            .command(&[
                "--checkpoint",
                name,
                "--output",
                output,
                "--download-dir",
                text(&folder),
                "--offline",
            ])
            .output()
            .unwrap()
    };
    for name in ["owner/tiny/original".to_owned(), format!("owner/tiny@{COMMIT}/original")] {
        assert!(try_offline(&name).status.success(), "{name}");
    }
    for name in ["other/tiny/original", "owner/tiny@v2/original", "owner/tiny"] {
        let sentence = it.hub.sentence(&try_offline(name));
        assert!(sentence.contains("the hub is not to be asked"), "{sentence}");
    }
    // A file that is gone is not overlooked.
    fs::remove_file(folder.join("original/model.safetensors")).unwrap();
    let sentence = it.hub.sentence(&try_offline("owner/tiny/original"));
    assert!(
        sentence.contains("`original/model.safetensors` of `owner/tiny/original` is neither in"),
        "{sentence}"
    );
}

#[test]
fn a_run_that_fails_does_not_change_what_is_known() {
    let it = setting();
    it.hub.export(&it.arguments());
    // The next commit has another tokenizer, which is in the way before any weights.
    fs::write(it.there.path().join("tokenizer_config.json"), "{}").unwrap();
    let sentence = it.hub.failure(&it.arguments());
    assert!(sentence.contains("is another file than `tokenizer_config.json`"), "{sentence}");
    it.hub.export(&[&it.arguments()[..], &["--offline"]].concat());
}

#[test]
fn what_is_in_the_way_is_seen_before_the_weights_are_fetched() {
    let it = setting();
    let folder = it.here.path().join("owner--tiny");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("tokenizer.json"), "mine").unwrap();
    let sentence = it.hub.failure(&it.arguments());
    assert!(sentence.contains("tokenizer.json` is another file than"), "{sentence}");
    assert!(it.hub.requests(".safetensors").is_empty());
    assert_eq!(fs::read_to_string(folder.join("tokenizer.json")).unwrap(), "mine");
}

#[test]
fn a_download_folder_called_like_the_repository() {
    let it = setting();
    it.hub.fail(
        "/cdn/model-00001-of-00002.safetensors",
        9,
        crate::double::Fault::Status(403, ("x-none", "")),
    );
    let arguments =
        ["--checkpoint", "owner/tiny", "--output", "m.onnx", "--download-dir", "owner/tiny"];
    let run = || it.hub.command(&arguments).current_dir(it.here.path()).output().unwrap();
    let sentence = it.hub.sentence(&run());
    assert!(sentence.starts_with("`owner/tiny` is not open to all (it answers 403)"), "{sentence}");
    it.hub.forgive();
    assert!(run().status.success(), "the same command goes on");
    // As a folder it is a checkpoint like any other.
    let plain = ["--checkpoint", "owner/tiny", "--output", "owner/other.onnx"];
    it.hub.requests("");
    assert!(it.hub.command(&plain).current_dir(it.here.path()).output().unwrap().status.success());
    assert!(it.hub.requests("").is_empty());
}

#[test]
fn names_and_sizes_that_a_hub_should_not_give() {
    let it = setting();
    let zeros =
        |size: u64| move |file: &Path| fs::File::create(file).unwrap().set_len(size).unwrap();
    let config = it.there.path().join("original/config.json");
    zeros(300 << 20)(&config);
    let sentence = it.hub.failure(&it.arguments());
    assert!(sentence.contains("has 314572800 bytes on the hub, far too many"), "{sentence}");
    assert!(contents(it.here.path()).is_empty());
    // Files that leave the folder are none.
    for name in ["C:x.safetensors", "..\\x.safetensors", "a\u{1b}[2J.safetensors"] {
        let there = with_weights_as("model.safetensors", false);
        let original = there.path().join("original");
        fs::rename(original.join("model.safetensors"), original.join(name)).unwrap();
        let hub = Double::serving(there.path());
        let sentence = hub.failure(&it.arguments());
        assert!(sentence.contains("has no model.safetensors at commit"), "{sentence}");
        assert_eq!(
            files(it.here.path()).iter().filter(|file| file.contains("x.safetensors")).count(),
            0
        );
        fs::remove_dir_all(it.here.path().join("owner--tiny")).unwrap();
    }
}

/// A mistyped folder may look like a repository.
#[test]
fn a_folder_that_lacks_one_is_named_where_the_hub_fails() {
    let it = setting();
    it.hub.fail(
        "/cdn/model-00001-of-00002.safetensors",
        9,
        crate::double::Fault::Status(403, ("x-none", "")),
    );
    let arguments = ["--checkpoint", "owner/tiny", "--output", "m.onnx"];
    let sentence = || {
        let output = it.hub.command(&arguments).current_dir(it.here.path()).output().unwrap();
        it.hub.sentence(&output)
    };
    assert!(sentence().starts_with("`owner/tiny` is not open to all"));
    fs::create_dir(it.here.path().join("owner")).unwrap();
    let found = sentence();
    assert!(
        found.starts_with("the folder `owner` has no `tiny`, so the hub was asked: `owner/tiny`"),
        "{found}"
    );
}
