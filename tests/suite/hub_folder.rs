//! Download folders, and exports from them without the hub.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::fake_hub::{COMMIT, FakeHub, Fault, HubTest, REPOSITORY, repository};
use crate::layout_fixtures::{config, in_layout, write_index, write_shards};
use crate::support::{
    Home, assert_contains, assert_ends, assert_starts, cases, contents, copy_folder, edit_json,
    export, export_args, failure, fixture, flip_last_bit, resize, stage_args, text,
};

const WEIGHTS: &str = "original/model.safetensors";

fn with_weights_as(name: &str) -> Home {
    let repository = repository();
    let original = repository.join("original");
    fs::rename(original.join("model.safetensors"), original.join(name)).unwrap();
    repository
}

/// A repository with other weights, under another name.
fn with_other_weights() -> Home {
    let repository = with_weights_as("weights.safetensors");
    flip_last_bit(&repository.join("original/weights.safetensors"));
    repository
}

#[test]
fn keeps_existing_files() {
    let test = HubTest::new();
    copy_folder(&test.repository.join("original"), &test.folder().join("original"));
    let summary = test.hub.export(&test.original());
    assert!(test.hub.take_requests(WEIGHTS).is_empty());
    assert!(!summary["hub"]["fetched"].to_string().contains("original"), "{summary}");

    // A time beyond all clocks.
    let record = test.folder().join(format!(".cache/huggingface/download/{WEIGHTS}.metadata"));
    fs::write(record, format!("{COMMIT}\n{}\n1e19\n", "0".repeat(64))).unwrap();
    test.hub.export(&test.original());

    // Changed after it was recorded.
    let weights = test.folder().join(WEIGHTS);
    let right = fs::read(&weights).unwrap();
    flip_last_bit(&weights);
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&weights).unwrap().set_modified(later).unwrap();
    let before = contents(&test.folder());
    let sentence = test.hub.failure(&test.original());
    let expected = "differs from `original/model.safetensors` at commit COMMIT: choose another download folder, or move the file away; pass --download-dir DIR";
    assert_ends(&sentence, expected);
    assert_eq!(contents(&test.folder()), before);

    // Of an earlier commit, whose config was another.
    fs::write(&weights, right).unwrap();
    test.hub.export(&test.original());
    let config = test.repository.join("original/config.json");
    fs::write(&config, fs::read_to_string(&config).unwrap() + " ").unwrap();
    let sentence = test.hub.failure(&test.original());
    let pinned = "it is from commit COMMIT, which `owner/tiny@COMMIT/original` exports with this";
    assert_contains(&sentence, pinned);
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
    assert_starts(&sentence, "another export is downloading into `");
    drop(lock);
    test.hub.export(&test.original());
}

#[test]
fn refuses_folder_of_another_repository() {
    let test = HubTest::new();
    test.hub.export(&test.original());
    // All files that both repositories have are the same.
    let remote = with_other_weights();
    let hub = FakeHub::serving_as("bob/tiny", &remote);
    let (folder, before) = (test.folder(), contents(&test.folder()));
    let base = test.named("bob/tiny/original");
    let sentence = hub.failure(&[&base[..], &["--download-dir", text(&folder)]].concat());
    let end =
        "` holds files of `owner/tiny`: choose another download folder; pass --download-dir DIR";
    assert_ends(&sentence, end);
    assert_eq!(contents(&folder), before);
}

#[test]
fn refuses_local_files_of_another_save() {
    let test = HubTest::serving(with_other_weights());
    let folder = test.folder().join("original");
    fs::create_dir_all(&folder).unwrap();
    write_index(&folder, json!({"a": "old.safetensors"}));
    fs::copy(fixture("tiny/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let sentence = test.hub.failure(&test.original());
    assert_contains(
        &sentence,
        "original` holds both model.safetensors and a model.safetensors.index",
    );
    assert_ends(&sentence, "; pass --download-dir DIR");
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        fs::rename(folder.join(name), test.here.join(name)).unwrap();
    }
    let summary = test.hub.export(&test.original());
    let expected = json!(["owner--tiny/original/weights.safetensors"]);
    assert_eq!(summary["weights"]["files"], expected);
    let alone = test.here.join("alone");
    copy_folder(&test.repository.join("original"), &alone);
    let expected = export(&export_args(&alone, &test.model, &[]));
    assert_eq!(summary["fingerprint"], expected["fingerprint"]);
}

#[test]
fn exports_offline_from_downloaded_files_only() {
    let test = HubTest::new();
    let sentence = test.hub.sentence(test.hub.command(&test.root()).env("HF_HUB_OFFLINE", "1"));
    let start = "`config.json` of `owner/tiny` is neither in the download folder `";
    assert_starts(&sentence, start);
    assert_contains(&sentence, "owner--tiny` nor in Hugging Face's cache `");
    let end =
        "`, and HF_HUB_OFFLINE forbids downloads; pass --checkpoint DIR or --download-dir DIR";
    assert_ends(&sentence, end);
    assert!(test.hub.take_requests("").is_empty() && contents(&test.here).is_empty());

    test.hub.export(&test.original());
    let folder = test.folder();
    let offline = |name: &str| {
        let options = ["--offline", "--download-dir", text(&folder)];
        test.hub.command(&[&test.named(name)[..], &options].concat())
    };
    for name in ["owner/tiny/original".to_owned(), format!("owner/tiny@{COMMIT}/original")] {
        assert!(offline(&name).output().unwrap().status.success(), "{name}");
    }
    let table = "other/tiny/original | holds files of `owner/tiny`
        owner/tiny@ffffffffffffffffffffffffffffffffffffffff/original | `original/config.json` of
        owner/tiny@v2/original | no download has told which commit the revision `v2` of `owner/tiny` is, and offline mode forbids to ask: run the command once without it, or name the commit of the download folder, `owner/tiny@COMMIT/original`
        owner/tiny | `config.json` of `owner/tiny` is neither in the download folder `";
    for [name, expected] in cases(table) {
        assert_contains(&test.hub.sentence(&mut offline(name)), expected);
    }
    // Files that another program put there.
    let copied = test.here.join("copied");
    copy_folder(&test.repository.join("original"), &copied.join("original"));
    let options = ["--offline", "--download-dir", text(&copied)];
    let arguments = [&test.original()[..], &options].concat();
    let sentence = test.hub.failure(&arguments);
    let start =
        format!("`original/config.json` is in the download folder `{}` without", text(&copied));
    assert_starts(&sentence, &start);
    assert_ends(&sentence, &format!("; pass --checkpoint {}/original", text(&copied)));
    // After a run for another commit, which failed by its tokenizer.
    fs::write(test.repository.join("tokenizer_config.json"), "{}").unwrap();
    let sentence = test.hub.failure(&test.original());
    assert_contains(&sentence, "differs from `tokenizer_config.json`");
    assert!(offline("owner/tiny/original").output().unwrap().status.success());

    // A revision counts as the commit of its own last download.
    fs::remove_file(test.repository.join("tokenizer_config.json")).unwrap();
    let pull_request = "owner/tiny@refs/pr/3/original";
    assert_contains(&test.hub.sentence(&mut offline(pull_request)), "`refs/pr/3` of");
    test.hub.export(&[&test.named(pull_request)[..], &["--download-dir", text(&folder)]].concat());
    assert!(offline(pull_request).output().unwrap().status.success());
    let commits = folder.join(".cache/huggingface/gpt-oss-export.refs");
    // Another folder of the revision, which was downloaded later.
    fs::write(commits.join("refs%2Fpr%2F3@"), "e".repeat(40)).unwrap();
    assert!(offline(pull_request).output().unwrap().status.success());
    let commit = commits.join("refs%2Fpr%2F3@original");
    assert_eq!(fs::read_to_string(&commit).unwrap(), COMMIT);
    fs::write(commit, "f".repeat(40)).unwrap();
    let sentence = test.hub.sentence(&mut offline(pull_request));
    let start = "`original/config.json` of `owner/tiny@refs/pr/3/original` is neither";
    assert_starts(&sentence, start);

    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    let sentence = test.hub.sentence(&mut offline("owner/tiny/original"));
    assert_starts(&sentence, &format!("`{WEIGHTS}` of `owner/tiny/original` is neither in"));
}

/// What the export of a repository reads is what its folder holds for `inspect`, a second export
/// and a verification: another choice is refused before weights are fetched.
#[test]
fn files_beside_those_of_the_hub_count() {
    // A file of the repository, one beside it in the download folder, and the refusal.
    let table = "weights.safetensors | other.safetensors | holds 2 .safetensors files and no model.safetensors.index.json
        weights.safetensors | weights.gguf |
        weights.safetensors | model.safetensors.index.bf16.json | holds no model.safetensors.index.json, but one for each saved variant
        model.safetensors | other.safetensors |
        model.safetensors | adapter_config.json | is a LoRA adapter beside a whole model
        weights.safetensors | model.safetensors | STRANGER";
    for [remote, beside, expected] in cases(table) {
        let test = HubTest::serving(with_weights_as(remote));
        let folder = test.folder().join("original");
        fs::create_dir_all(&folder).unwrap();
        let other = fixture("tiny/model.safetensors");
        fs::copy(other, folder.join(beside)).unwrap();
        let model = test.here.join("local.onnx");
        if expected.is_empty() {
            let summary = test.hub.export(&test.original());
            let local = export(&export_args(&folder, &model, &[]));
            assert_eq!(local["fingerprint"], summary["fingerprint"], "{remote} {beside}");
            continue;
        }
        if expected == "STRANGER" {
            let stranger = "original` holds `model.safetensors`, which is no file of `owner/tiny/original` and would be taken for its checkpoint: move it away, or choose another download folder; pass --download-dir DIR";
            assert_ends(&test.hub.failure(&test.original()), stranger);
            continue;
        }
        assert_contains(&test.hub.failure(&test.original()), expected);
        assert!(!folder.join(remote).exists(), "{remote} {beside}");
        fs::copy(test.repository.join("original").join(remote), folder.join(remote)).unwrap();
        assert_contains(&failure(&export_args(&folder, &model, &[])), expected);
    }
}

/// As in a folder: tensors of a shard that is not there can be ignored, and files that an export
/// wrote are no part of a checkpoint.
#[test]
fn the_hub_and_folders_have_one_rule() {
    let remote = Home::new();
    write_shards(&remote, &config(), in_layout("hf"));
    edit_json(&remote.join("model.safetensors.index.json"), |index| {
        index["weight_map"]["mtp.fc.weight"] = json!("mtp.safetensors");
    });
    let test = HubTest::serving(remote);
    let expected = "names the shard `mtp.safetensors`, which is missing: add it; the model does not use `mtp.fc.weight`";
    assert_contains(&test.hub.failure(&test.root()), expected);
    test.assert_no_weights();
    let ignoring = [&test.root()[..], &["--ignore-tensor", "mtp.*"]].concat();
    let summary = test.hub.export(&ignoring);
    let offline = [&ignoring[..], &["--offline"]].concat();
    assert_eq!(test.hub.export(&offline)["fingerprint"], summary["fingerprint"]);
    let sentence = test.hub.failure(&[&test.root()[..], &["--offline"]].concat());
    assert_starts(
        &sentence,
        "`mtp.safetensors` of `owner/tiny` is neither in the download folder `",
    );
    assert_contains(&sentence, ", and offline mode forbids downloads: `");
    assert_contains(&sentence, expected);

    let repository = with_weights_as("weights.safetensors");
    let staged = repository.join("original/staged.safetensors");
    export(&stage_args(&fixture("tiny"), &staged, &[]));
    let test = HubTest::serving(repository);
    test.hub.export(&test.original());
    assert!(!test.folder().join("original/staged.safetensors").exists());
}

#[test]
fn addresses_name_repositories() {
    let test = HubTest::new();
    for address in [
        "https://huggingface.co/owner/tiny/tree/main/original",
        "hf.co/owner/tiny/blob/main/original/config.json",
        "hf://owner/tiny/original",
    ] {
        test.hub.take_requests("");
        let summary = test.hub.export(&test.named(address));
        assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}/original"));
        assert!(!test.hub.take_requests("").is_empty());
    }
    for address in ["https://example.com/owner/tiny", "git@github.com:owner/tiny", "s3://a/b"] {
        let expected = "is not the address of a repository on the Hugging Face hub: pass such an address, owner/name, or the folder";
        assert_contains(&test.hub.failure(&test.named(address)), expected);
        assert!(test.hub.take_requests("").is_empty());
    }
}

#[test]
fn lists_file_of_root_once_offline() {
    let remote = Home::new();
    copy_folder(&fixture("tiny"), &remote);
    fs::rename(remote.join("model.safetensors"), remote.join("weights.safetensors")).unwrap();
    let test = HubTest::serving(remote);
    let online = test.hub.export(&test.root());
    let offline = test.hub.export(&[&test.root()[..], &["--offline"]].concat());
    assert_eq!(offline["fingerprint"], online["fingerprint"]);
}

#[test]
fn prefers_local_folder_to_repository_of_the_same_name() {
    let test = HubTest::new();
    let run = |output: &str, options: &[&str]| {
        let base = ["--checkpoint", REPOSITORY, "--output", output];
        let mut command = test.hub.command(&[&base[..], options].concat());
        command.current_dir(&*test.here);
        command
    };
    let into = ["--download-dir", REPOSITORY];
    test.hub.fail("/cdn/model-00001-of-00002.safetensors", 1, Fault::Status(403, ""));
    let sentence = test.hub.sentence(&mut run("model.onnx", &into));
    assert_contains(&sentence, "/model-00001-of-00002.safetensors` answered 403;");
    let resumed = run("model.onnx", &into).output().unwrap();
    assert!(resumed.status.success(), "the same command resumes the download");
    test.hub.take_requests("");
    assert!(run("owner/other.onnx", &[]).output().unwrap().status.success());
    assert!(test.hub.take_requests("").is_empty());

    // A mistyped folder may look like a repository: nothing is sent.
    fs::remove_dir_all(test.here.join(REPOSITORY)).unwrap();
    let unsent = "there is no folder `owner/tiny`; for the repository on the hub, pass --checkpoint hf:owner/tiny";
    assert_eq!(test.hub.sentence(&mut run("model.onnx", &[])), unsent);
    copy_folder(&fixture("tiny"), &test.here.join("owner/tiny-2"));
    let sentence = test.hub.sentence(&mut run("model.onnx", &[]));
    assert_contains(&sentence, "`owner/tiny` (did you mean `owner/tiny-2`?); for the repository");
    assert!(test.hub.take_requests("").is_empty());
    let named = ["--checkpoint", "hf:owner/tiny/original", "--output", "hub.onnx"];
    assert!(test.hub.command(&named).current_dir(&*test.here).output().unwrap().status.success());
    assert!(!test.hub.take_requests("").is_empty());
    for (name, expected) in [("hf:owner", "is not such a name"), ("hf:../x", "is not such a name")]
    {
        let arguments = ["--checkpoint", name, "--output", "hub.onnx"];
        assert_contains(&test.hub.sentence(&mut test.hub.command(&arguments)), expected);
    }
}

#[cfg_attr(windows, ignore = "its file names are invalid")]
#[test]
fn refuses_unsafe_paths_and_sizes() {
    for name in ["C:x.safetensors", "..\\x.safetensors", "a\u{1b}[2J.safetensors"] {
        let test = HubTest::serving(with_weights_as(name));
        assert_contains(&test.hub.failure(&test.original()), "has no model.safetensors at commit");
        test.assert_no_weights();
    }
    let test = HubTest::new();
    resize(&test.repository.join("original/config.json"), |_| 300 << 20);
    let sentence = test.hub.failure(&test.original());
    assert_contains(&sentence, "has 314572800 bytes on the hub, far too many");
    assert!(contents(&test.here).is_empty());
}
