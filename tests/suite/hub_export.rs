//! Exports of checkpoints on a fake hub.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::derived::{in_layout, write_shards};
use crate::fake_hub::{COMMIT, FORMER_NAME, HubTest, LIST, REPOSITORY, WEIGHTS, digest, files};
use crate::sizes::sparse;
use crate::support::{assert_contains, export, export_args, model_metadata, run, sentence, text};

#[test]
fn exports_repository_in_place() {
    let mut test = HubTest::new();
    // A folder that the export creates.
    test.model = test.here.path().join("out/model.onnx");
    let summary = test.hub.export(&test.root());
    let fetched = files(&test.folder());
    assert_eq!(
        fetched,
        [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model-00000-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    fetched.iter().for_each(|file| test.assert_downloaded(file));
    let sizes = fetched.iter().map(|file| fs::metadata(test.folder().join(file)).unwrap().len());
    assert_eq!(summary["hub"]["bytes_fetched"], sizes.sum::<u64>());
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}"));
    assert_eq!(summary["weights"]["in_place"], true);
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(model_metadata(&test.model)["source"], summary["hub"]["source"]);

    // Again: the list is the only request, and none is sent offline.
    test.hub.take_requests("");
    let again = test.hub.export(&test.root());
    assert_eq!(again["hub"]["fetched"], json!([]));
    assert_eq!(again["fingerprint"], summary["fingerprint"]);
    assert_eq!(test.hub.take_requests("").len(), 1);
    let offline = test.hub.export(&[&test.root()[..], &["--offline"]].concat());
    assert_eq!((&offline["hub"], &offline["fingerprint"]), (&again["hub"], &again["fingerprint"]));
    assert!(test.hub.take_requests("").is_empty());
}

#[test]
fn exports_original_folder_with_root_tokenizer() {
    let test = HubTest::new();
    let folder = test.here.path().join("weights");
    let name = format!("{REPOSITORY}@refs/pr/3/original");
    let options = ["--genai", "--download-dir", text(&folder)];
    let summary = test.hub.export(&export_args(Path::new(&name), &test.model, &options));
    assert_eq!(
        files(&folder),
        [
            "chat_template.jinja",
            "generation_config.json",
            "original/config.json",
            "original/model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    assert_eq!(summary["weights"]["files"], json!(["weights/original/model.safetensors"]));
    assert_eq!(summary["genai"]["missing"], json!(["special_tokens_map.json"]));
    assert_eq!(summary["genai"]["eos_token_ids"], json!([1]));
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}/original"));
    let tokenizer = |folder: &Path| fs::read(folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer(test.repository.path()), tokenizer(test.here.path()));
}

#[test]
fn sends_token_to_hub_only() {
    let test = HubTest::new();
    let arguments = ["--checkpoint", FORMER_NAME, "--output", text(&test.model)];
    let tokens_with = |name: &str, value: &str| {
        let run = test.hub.command(&arguments).env(name, value).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        test.hub.take_requests("").into_iter().map(|request| (request.path, request.token))
    };
    let (cdn, hub): (Vec<_>, Vec<_>) =
        tokens_with("HF_TOKEN", " hf_secret\n").partition(|(path, _)| path.starts_with("/cdn/"));
    assert!(cdn.len() >= 3 && hub.len() >= 9, "{cdn:?} {hub:?}");
    assert!(cdn.iter().all(|(_, token)| token.is_none()), "{cdn:?}");
    assert!(hub.iter().all(|(_, token)| token.as_deref() == Some("Bearer hf_secret")), "{hub:?}");

    let other = test.here.path().join("other");
    fs::write(&other, "hf_other").unwrap();
    fs::write(test.hub.home.path().join("token"), "hf_stored\n").unwrap();
    for (name, value, expected) in [
        ("HF_TOKEN", "", Some("Bearer hf_stored")),
        ("HF_TOKEN_PATH", text(&other), Some("Bearer hf_other")),
        ("HF_HUB_CACHE", text(test.here.path()), Some("Bearer hf_stored")),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", None),
    ] {
        let (_, token) = tokens_with(name, value).next().unwrap();
        assert_eq!(token.as_deref(), expected, "{name}");
    }
    let sentence = sentence(test.hub.command(&arguments).env("HF_TOKEN", "hf_é"));
    let expected = sentence.starts_with("the Hugging Face token") && !sentence.contains('é');
    assert!(expected, "{sentence}");
}

#[cfg(unix)]
#[test]
fn reuses_files_of_hugging_face_cache() {
    let test = HubTest::new();
    let repo = test.hub.home.path().join("hub/models--owner--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    for folder in [repo.join("blobs"), repo.join("refs"), snapshot.join("original")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for file in ["original/config.json", "original/model.safetensors"] {
        let bytes = fs::read(test.repository.path().join(file)).unwrap();
        let blob = digest(&bytes, file.ends_with(".safetensors"));
        fs::write(repo.join("blobs").join(&blob), bytes).unwrap();
        std::os::unix::fs::symlink(format!("../../../blobs/{blob}"), snapshot.join(file)).unwrap();
    }
    let summary = test.hub.export(&[&test.original()[..], &["--offline"]].concat());
    assert_eq!(summary["weights"]["in_place"], true);
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}/original"));
    assert!(test.hub.take_requests("").is_empty());
    test.assert_downloaded("original/model.safetensors");

    // Online, blobs of other commits serve too.
    let other = repo.join("snapshots/ffffffffffffffffffffffffffffffffffffffff");
    fs::rename(&snapshot, &other).unwrap();
    fs::remove_dir_all(test.folder()).unwrap();
    test.hub.export(&test.original());
    assert!(test.hub.take_requests(WEIGHTS).is_empty());

    // A damaged blob is replaced by a download.
    fs::remove_dir_all(test.folder()).unwrap();
    let blob = other.join("original/model.safetensors").canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[5000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    test.hub.export(&test.original());
    assert_eq!(test.hub.take_requests(WEIGHTS).len(), 1);
    test.assert_downloaded("original/model.safetensors");
}

#[test]
fn exports_largest_model_by_headers() {
    let remote = tempfile::tempdir().unwrap();
    let total = sparse(remote.path(), 36, 128, 7);
    let test = HubTest::serving(remote);
    let summary = test.hub.export(&[&test.root()[..], &["--headers-only"]].concat());
    assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > total);
    assert!(summary["hub"]["bytes_fetched"].as_u64().unwrap() < 100_000);
    let remote = test.repository.path();
    let expected = export(&export_args(remote, &remote.join("local.onnx"), &[]));
    assert_eq!(summary["model"]["nodes"], expected["model"]["nodes"]);
    // It fails, since the data is not there.
    let inspected = run(&["inspect", text(&test.model), "--json"]).stdout;
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    let files = inspected["files"].as_array().unwrap();
    assert_eq!(files.len(), 7);
    for file in files {
        let name = file["file"].as_str().unwrap().strip_prefix("owner--tiny/").unwrap();
        let length = fs::metadata(remote.join(name)).unwrap().len();
        assert_eq!(file["needed"], length, "{name}");
    }
}

#[test]
fn refuses_headers_where_weights_are_read() {
    let remote = tempfile::tempdir().unwrap();
    write_shards(remote.path(), in_layout("split"));
    let (test, elsewhere) = (HubTest::serving(remote), tempfile::tempdir().unwrap());
    let base = [&test.root()[..], &["--headers-only"]].concat();
    for (options, expected) in [
        (&[][..], "several of its tensors"),
        (&["--external-data", "copy"], "a copy of the weights needs weight data, and only headers"),
        (&["--download-dir", text(elsewhere.path())], "outside the model's folder"),
    ] {
        assert_contains(&test.hub.failure(&[&base[..], options].concat()), expected);
    }
    test.hub.take_requests("");
    assert_contains(&sentence(test.hub.command(&base).env("HF_HUB_OFFLINE", "1")), "offline mode");
    assert!(test.hub.take_requests(LIST).is_empty() && !test.model.exists());
}
