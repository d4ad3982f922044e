//! Download folders, and exports from them without the hub.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use crate::fake_hub::{COMMIT, FakeHub, Fault, HubTest, LIST, NO_HEADER, REPOSITORY, repository};
use crate::support::{
    assert_contains, contents, copy_folder, export, export_args, fixture, flip_last_bit, text,
};

const WEIGHTS: &str = "original/model.safetensors";

/// A repository with its weights under another name.
fn with_weights_as(name: &str) -> TempDir {
    let repository = repository();
    let original = repository.path().join("original");
    fs::rename(original.join("model.safetensors"), original.join(name)).unwrap();
    repository
}

/// A repository with other weights, under another name.
fn with_other_weights() -> TempDir {
    let repository = with_weights_as("weights.safetensors");
    flip_last_bit(&repository.path().join("original/weights.safetensors"));
    repository
}

#[test]
fn keeps_existing_files() {
    let test = HubTest::new();
    copy_folder(&test.repository.path().join("original"), &test.folder().join("original"));
    let summary = test.hub.export(&test.original());
    assert!(test.hub.take_requests(WEIGHTS).is_empty());
    assert!(!summary["hub"]["fetched"].to_string().contains("original"), "{summary}");

    // Changed after it was recorded.
    let weights = test.folder().join(WEIGHTS);
    let right = fs::read(&weights).unwrap();
    flip_last_bit(&weights);
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&weights).unwrap().set_modified(later).unwrap();
    let before = contents(&test.folder());
    let sentence = test.hub.failure(&test.original());
    let expected = format!(
        "differs from `{WEIGHTS}` at commit {COMMIT}: choose another download folder, or move the file away; pass --download-dir DIR"
    );
    assert!(sentence.ends_with(&expected), "{sentence}");
    assert_eq!(contents(&test.folder()), before);

    // Of an earlier commit, whose config was another.
    fs::write(&weights, right).unwrap();
    test.hub.export(&test.original());
    let config = test.repository.path().join("original/config.json");
    fs::write(&config, fs::read_to_string(&config).unwrap() + " ").unwrap();
    let sentence = test.hub.failure(&test.original());
    let pinned = format!(
        "it is from commit {COMMIT}, which `owner/tiny@{COMMIT}/original` exports with this"
    );
    assert!(sentence.contains(&pinned), "{sentence}");
}

#[test]
fn finds_conflicts_before_fetching_weights() {
    let test = HubTest::new();
    fs::create_dir(test.folder()).unwrap();
    fs::write(test.folder().join("tokenizer.json"), "mine").unwrap();
    assert_contains(&test.hub.failure(&test.original()), "tokenizer.json` differs from");
    assert!(test.hub.take_requests(".safetensors").is_empty());
    assert_eq!(fs::read_to_string(test.folder().join("tokenizer.json")).unwrap(), "mine");
}

#[test]
fn refuses_locked_folder() {
    let test = HubTest::new();
    let metadata = test.folder().join(".cache/huggingface");
    fs::create_dir_all(&metadata).unwrap();
    let lock = fs::File::create(metadata.join("gpt-oss-export.lock")).unwrap();
    lock.lock().unwrap();
    let sentence = test.hub.failure(&test.original());
    assert!(sentence.starts_with("another export is downloading into `"), "{sentence}");
    drop(lock);
    test.hub.export(&test.original());
}

#[test]
fn refuses_folder_of_another_repository() {
    let test = HubTest::new();
    test.hub.export(&test.original());
    // All files that both repositories have are the same.
    let remote = with_other_weights();
    let hub = FakeHub::serving_as("bob/tiny", remote.path());
    let (folder, before) = (test.folder(), contents(&test.folder()));
    let base = ["--checkpoint", "bob/tiny/original", "--output", text(&test.model)];
    let sentence = hub.failure(&[&base[..], &["--download-dir", text(&folder)]].concat());
    let expected =
        "` holds files of `owner/tiny`: choose another download folder; pass --download-dir DIR";
    assert!(sentence.ends_with(expected), "{sentence}");
    assert_eq!(contents(&folder), before);
}

#[test]
fn ignores_local_files_that_are_not_in_the_repository() {
    let test = HubTest::serving(with_other_weights());
    let folder = test.folder().join("original");
    fs::create_dir_all(&folder).unwrap();
    let index = json!({"weight_map": {"a": "old.safetensors"}}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    fs::copy(fixture("tiny/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let summary = test.hub.export(&test.original());
    let expected = json!(["owner--tiny/original/weights.safetensors"]);
    assert_eq!(summary["weights"]["files"], expected);
    let alone = test.here.path().join("alone");
    copy_folder(&test.repository.path().join("original"), &alone);
    let expected = export(&export_args(&alone, &test.model, &[]));
    assert_eq!(summary["fingerprint"], expected["fingerprint"]);
}

#[test]
fn exports_offline_from_downloaded_files_only() {
    let test = HubTest::new();
    let sentence = test.hub.sentence(test.hub.command(&test.root()).env("HF_HUB_OFFLINE", "1"));
    assert!(sentence.starts_with("`config.json` of `owner/tiny` is neither in"), "{sentence}");
    assert!(test.hub.take_requests("").is_empty() && contents(test.here.path()).is_empty());

    test.hub.export(&test.original());
    let folder = test.folder();
    let offline = |name: &str| {
        let base = ["--checkpoint", name, "--output", text(&test.model), "--offline"];
        test.hub.command(&[&base[..], &["--download-dir", text(&folder)]].concat())
    };
    for name in ["owner/tiny/original".to_owned(), format!("owner/tiny@{COMMIT}/original")] {
        assert!(offline(&name).output().unwrap().status.success(), "{name}");
    }
    let other_commit = format!("owner/tiny@{}/original", "f".repeat(40));
    for (name, expected) in [
        ("other/tiny/original", "holds files of `owner/tiny`"),
        (&other_commit, "`original/config.json` of"),
        ("owner/tiny", "`config.json` of `owner/tiny` is neither in the download folder nor in"),
    ] {
        assert_contains(&test.hub.sentence(&mut offline(name)), expected);
    }
    // After a run for another commit, which failed by its tokenizer.
    fs::write(test.repository.path().join("tokenizer_config.json"), "{}").unwrap();
    let sentence = test.hub.failure(&test.original());
    assert!(sentence.contains("differs from `tokenizer_config.json`"), "{sentence}");
    assert!(offline("owner/tiny/original").output().unwrap().status.success());

    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    let sentence = test.hub.sentence(&mut offline("owner/tiny/original"));
    let expected = format!("`{WEIGHTS}` of `owner/tiny/original` is neither in");
    assert!(sentence.starts_with(&expected), "{sentence}");
}

#[test]
fn prefers_local_folder_to_repository_of_the_same_name() {
    let test = HubTest::new();
    let run = |output: &str, options: &[&str]| {
        let base = ["--checkpoint", REPOSITORY, "--output", output];
        let mut command = test.hub.command(&[&base[..], options].concat());
        command.current_dir(test.here.path());
        command
    };
    let into = ["--download-dir", REPOSITORY];
    test.hub.fail("/cdn/model-00001-of-00002.safetensors", 1, Fault::Status(403, NO_HEADER));
    let sentence = test.hub.sentence(&mut run("model.onnx", &into));
    assert!(sentence.contains("/model-00001-of-00002.safetensors` answered 403;"), "{sentence}");
    let resumed = run("model.onnx", &into).output().unwrap();
    assert!(resumed.status.success(), "the same command resumes the download");
    test.hub.take_requests("");
    assert!(run("owner/other.onnx", &[]).output().unwrap().status.success());
    assert!(test.hub.take_requests("").is_empty());

    // A mistyped folder may look like a repository.
    fs::remove_dir_all(test.here.path().join(REPOSITORY)).unwrap();
    test.hub.fail(LIST, 1, Fault::Status(404, NO_HEADER));
    let sentence = test.hub.sentence(&mut run("model.onnx", &[]));
    let expected =
        "the folder `owner` has no `tiny`, so the hub was asked: `owner/tiny` is neither";
    assert!(sentence.starts_with(expected), "{sentence}");
}

#[test]
fn refuses_unsafe_paths_and_sizes() {
    for name in ["C:x.safetensors", "..\\x.safetensors", "a\u{1b}[2J.safetensors"] {
        let test = HubTest::serving(with_weights_as(name));
        assert_contains(&test.hub.failure(&test.original()), "has no model.safetensors at commit");
        test.assert_no_weights();
    }
    let test = HubTest::new();
    let config = fs::File::create(test.repository.path().join("original/config.json")).unwrap();
    config.set_len(300 << 20).unwrap();
    let sentence = test.hub.failure(&test.original());
    assert_contains(&sentence, "has 314572800 bytes on the hub, far too many");
    assert!(contents(test.here.path()).is_empty());
}
