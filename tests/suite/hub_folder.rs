//! Download folders, and exports from them without the hub.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use crate::fake_hub::{COMMIT, FakeHub, Fault, HubTest, REPOSITORY, files, repository};
use crate::support::{contents, copy_folder, export, fixture, text};

const WEIGHTS: &str = "original/model.safetensors";

/// A repository with its weights under another name, and other ones if they are changed.
fn with_weights_as(name: &str, changed: bool) -> TempDir {
    let repository = repository();
    let original = repository.path().join("original");
    let mut bytes = fs::read(original.join("model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= u8::from(changed);
    fs::remove_file(original.join("model.safetensors")).unwrap();
    fs::write(original.join(name), bytes).unwrap();
    repository
}

#[test]
fn existing_files_are_kept() {
    let test = HubTest::new();
    copy_folder(&test.repository.path().join("original"), &test.folder().join("original"));
    let summary = test.hub.export(&test.original());
    assert!(test.hub.take_requests(WEIGHTS).is_empty());
    assert!(!summary["hub"]["fetched"].to_string().contains("original"), "{summary}");

    // Changed after it was recorded.
    let weights = test.folder().join(WEIGHTS);
    let right = fs::read(&weights).unwrap();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    fs::write(&weights, &wrong).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&weights).unwrap().set_modified(later).unwrap();
    let sentence = test.hub.failure(&test.original());
    let expected = format!(
        "differs from `{WEIGHTS}` at commit {COMMIT}: choose another download folder, or move the file away; pass --download-dir DIR"
    );
    assert!(sentence.ends_with(&expected), "{sentence}");
    assert_eq!(fs::read(&weights).unwrap(), wrong);

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
fn conflicts_are_found_before_weights_are_fetched() {
    let test = HubTest::new();
    fs::create_dir(test.folder()).unwrap();
    fs::write(test.folder().join("tokenizer.json"), "mine").unwrap();
    let sentence = test.hub.failure(&test.original());
    assert!(sentence.contains("tokenizer.json` differs from"), "{sentence}");
    assert!(test.hub.take_requests(".safetensors").is_empty());
    assert_eq!(fs::read_to_string(test.folder().join("tokenizer.json")).unwrap(), "mine");
}

#[test]
fn folder_is_locked() {
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
fn folder_holds_one_repository() {
    let test = HubTest::new();
    test.hub.export(&test.original());
    // All files that both repositories have are the same.
    let remote = with_weights_as("weights.safetensors", true);
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
fn list_decides_which_files_are_the_checkpoint() {
    let (remote, here) =
        (with_weights_as("weights.safetensors", true), tempfile::tempdir().unwrap());
    let hub = FakeHub::serving(remote.path());
    let folder = here.path().join("owner--tiny/original");
    fs::create_dir_all(&folder).unwrap();
    let index = json!({"weight_map": {"a": "old.safetensors"}}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    fs::copy(fixture("tiny/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let model = here.path().join("model.onnx");
    let summary = hub.export(&["--checkpoint", "owner/tiny/original", "--output", text(&model)]);
    let expected = json!(["owner--tiny/original/weights.safetensors"]);
    assert_eq!(summary["weights"]["files"], expected);
    let alone = here.path().join("alone");
    copy_folder(&remote.path().join("original"), &alone);
    let expected = export(&["--checkpoint", text(&alone), "--output", text(&model)]);
    assert_eq!(summary["fingerprint"], expected["fingerprint"]);
}

#[test]
fn offline_export_needs_the_same_checkpoint() {
    let test = HubTest::new();
    test.hub.export(&test.original());
    let folder = test.folder();
    let offline = |name: &str| {
        let base = ["--checkpoint", name, "--output", text(&test.model), "--offline"];
        test.hub
            .command(&[&base[..], &["--download-dir", text(&folder)]].concat())
            .output()
            .unwrap()
    };
    for name in ["owner/tiny/original".to_owned(), format!("owner/tiny@{COMMIT}/original")] {
        assert!(offline(&name).status.success(), "{name}");
    }
    let other_commit = format!("owner/tiny@{}/original", "f".repeat(40));
    for (name, expected) in [
        ("other/tiny/original", "holds files of `owner/tiny`"),
        (&other_commit, "`original/config.json` of"),
        ("owner/tiny", "`config.json` of `owner/tiny` is neither in the download folder nor in"),
    ] {
        let sentence = test.hub.sentence(&offline(name));
        assert!(sentence.contains(expected), "{sentence}");
    }
    // After a run for another commit, which failed by its tokenizer.
    fs::write(test.repository.path().join("tokenizer_config.json"), "{}").unwrap();
    let sentence = test.hub.failure(&test.original());
    assert!(sentence.contains("differs from `tokenizer_config.json`"), "{sentence}");
    assert!(offline("owner/tiny/original").status.success());

    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    let sentence = test.hub.sentence(&offline("owner/tiny/original"));
    assert!(sentence.starts_with(&format!("`{WEIGHTS}` of `owner/tiny/original` is neither in")));
}

#[test]
fn offline_export_without_files_is_refused() {
    let test = HubTest::new();
    let run = test.hub.command(&test.root()).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let sentence = test.hub.sentence(&run);
    assert!(sentence.starts_with("`config.json` of `owner/tiny` is neither in"), "{sentence}");
    assert!(test.hub.take_requests("").is_empty() && contents(test.here.path()).is_empty());
}

#[test]
fn folder_named_like_the_repository() {
    let test = HubTest::new();
    let run = |arguments: &[&str]| {
        test.hub.command(arguments).current_dir(test.here.path()).output().unwrap()
    };
    let plain = ["--checkpoint", REPOSITORY, "--output", "model.onnx"];
    let into = [&plain[..], &["--download-dir", REPOSITORY]].concat();
    test.hub.fail("/cdn/model-00001-of-00002.safetensors", 1, Fault::Status(403, ("x-none", "")));
    let sentence = test.hub.sentence(&run(&into));
    assert!(sentence.contains("/model-00001-of-00002.safetensors` answered 403;"), "{sentence}");
    assert!(run(&into).status.success(), "the same command resumes");
    // Without the option, the existing folder is the checkpoint.
    test.hub.take_requests("");
    let local = ["--checkpoint", REPOSITORY, "--output", "owner/other.onnx"];
    assert!(run(&local).status.success() && test.hub.take_requests("").is_empty());

    // A mistyped folder may look like a repository.
    fs::remove_dir_all(test.here.path().join(REPOSITORY)).unwrap();
    test.hub.fail("?blobs=true", 1, Fault::Status(404, ("x-none", "")));
    let sentence = test.hub.sentence(&run(&plain));
    let expected =
        "the folder `owner` has no `tiny`, so the hub was asked: `owner/tiny` is neither";
    assert!(sentence.starts_with(expected), "{sentence}");
}

#[test]
fn refuses_unsafe_paths_and_sizes() {
    for name in ["C:x.safetensors", "..\\x.safetensors", "a\u{1b}[2J.safetensors"] {
        let (remote, here) = (with_weights_as(name, false), tempfile::tempdir().unwrap());
        let output = here.path().join("model.onnx");
        let hub = FakeHub::serving(remote.path());
        let sentence =
            hub.failure(&["--checkpoint", "owner/tiny/original", "--output", text(&output)]);
        assert!(sentence.contains("has no model.safetensors at commit"), "{sentence}");
        assert!(!files(here.path()).iter().any(|file| file.contains(".safetensors")));
    }
    let test = HubTest::new();
    let config = fs::File::create(test.repository.path().join("original/config.json")).unwrap();
    config.set_len(300 << 20).unwrap();
    let sentence = test.hub.failure(&test.original());
    assert!(sentence.contains("has 314572800 bytes on the hub, far too many"), "{sentence}");
    assert!(contents(test.here.path()).is_empty());
}
