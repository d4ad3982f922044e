//! Checkpoints from a hub on loopback.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::derived::{in_folder, in_layout, write_shards};
use crate::double::{COMMIT, Double, REPOSITORY, digest};
use crate::support::{contents, copy_folder, export, fixture, logit_errors, python, text};

/// A repository as the released ones are: Hugging Face's layout at the root, in
/// shards, OpenAI's below, the tokenizer, and what nobody needs here.
pub fn repository() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    write_shards(root, in_layout("hf"));
    copy_folder(&fixture("tiny"), &root.join("original"));
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"] {
        fs::write(root.join(name), format!("{{\"is\": \"{name}\"}}")).unwrap();
    }
    fs::write(
        root.join("generation_config.json"),
        r#"{"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}"#,
    )
    .unwrap();
    fs::create_dir(root.join("metal")).unwrap();
    fs::write(root.join("metal/model.bin"), vec![0; 100_000]).unwrap();
    home
}

/// The files of a folder but for the hub's records, by their paths in it.
pub fn files(folder: &Path) -> Vec<String> {
    let all = contents(folder).into_iter().filter(|(path, _)| path.is_file());
    let within = |path: PathBuf| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
    all.map(|(path, _)| within(path)).filter(|path| !path.starts_with(".cache/")).collect()
}

fn same(one: &Path, other: &Path) {
    assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap(), "{}", other.display());
}

#[test]
fn a_repository_is_fetched_beside_the_model_and_exported_in_place() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    let model = here.path().join("out/model.onnx");
    let arguments = ["--checkpoint", REPOSITORY, "--output", text(&model)];
    let summary = hub.export(&arguments);

    let folder = here.path().join("out/owner--tiny");
    let fetched = files(&folder);
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
    fetched.iter().for_each(|file| same(&there.path().join(file), &folder.join(file)));
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}"));
    let bytes: u64 =
        fetched.iter().map(|file| fs::metadata(folder.join(file)).unwrap().len()).sum();
    assert_eq!(summary["hub"]["bytes_fetched"], bytes);
    assert_eq!(
        (&summary["weights"]["in_place"], &summary["weights"]["bytes_written"]),
        (&json!(true), &json!(0))
    );
    let metadata = &python("check.py", &[text(&model)], &Value::Null)["metadata"];
    assert_eq!(metadata["source"], format!("{REPOSITORY}@{COMMIT}"));
    assert!(logit_errors(&model, "onnxruntime", &["2x40"])[0] < 1e-5);

    // All is there now: the hub is asked for its list alone, or for nothing.
    hub.requests("");
    let again = hub.export(&arguments);
    assert_eq!(again["hub"]["fetched"], json!([]));
    assert_eq!(again["fingerprint"], summary["fingerprint"]);
    assert_eq!(hub.requests("").len(), 1);
    let offline = hub.export(&[&arguments[..], &["--offline"]].concat());
    assert_eq!((&offline["hub"], &offline["fingerprint"]), (&again["hub"], &again["fingerprint"]));
    assert_eq!(hub.requests("").len(), 0);
}

#[test]
fn of_the_original_folder_with_the_tokenizer_of_the_root() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    let (model, folder) = (here.path().join("model.onnx"), here.path().join("weights"));
    let name = format!("{REPOSITORY}@refs/pr/3/original");
    let summary = hub.export(&[
        "--checkpoint",
        &name,
        "--output",
        text(&model),
        "--download-dir",
        text(&folder),
        "--genai",
    ]);
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
    same(&there.path().join("tokenizer.json"), &here.path().join("tokenizer.json"));
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}/original"));
}

#[test]
fn a_token_goes_to_the_hub_and_to_no_other_host() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    hub.rename_from("owner/older");
    let output = here.path().join("model.onnx");
    let arguments = ["--checkpoint", "owner/older", "--output", text(&output)];
    let run = hub.command(&arguments).env("HF_TOKEN", " hf_secret\n").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let requests = hub.requests("");
    let (elsewhere, hubs): (Vec<_>, Vec<_>) =
        requests.iter().partition(|request| request.path.starts_with("/cdn/"));
    assert!(elsewhere.len() >= 3 && hubs.len() >= 9, "{requests:?}");
    assert!(hubs.iter().all(|request| request.token.as_deref() == Some("Bearer hf_secret")));
    assert!(elsewhere.iter().all(|request| request.token.is_none()), "{elsewhere:?}");

    // Without one in the environment, that which a login has stored.
    fs::write(hub.home.path().join("token"), "hf_stored\n").unwrap();
    hub.export(&arguments);
    let asked_with = || hub.requests("")[0].token.clone();
    assert_eq!(asked_with().as_deref(), Some("Bearer hf_stored"));
    let elsewhere = here.path().join("elsewhere");
    fs::write(&elsewhere, "hf_elsewhere").unwrap();
    let with = |name: &str, value: &str| hub.command(&arguments).env(name, value).output().unwrap();
    assert!(with("HF_TOKEN_PATH", text(&elsewhere)).status.success());
    assert_eq!(asked_with().as_deref(), Some("Bearer hf_elsewhere"));
    // Where the cache is does not matter to it.
    assert!(with("HF_HUB_CACHE", text(here.path())).status.success());
    assert_eq!(asked_with().as_deref(), Some("Bearer hf_stored"));
    assert!(with("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1").status.success());
    assert_eq!(asked_with(), None);
    let sentence = hub.sentence(&with("HF_TOKEN", "hf_é"));
    assert!(sentence.starts_with("the token for the hub") && !sentence.contains('é'), "{sentence}");
}

#[test]
fn what_is_here_is_not_fetched_again_and_never_changed() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    let (model, folder) = (here.path().join("model.onnx"), here.path().join("owner--tiny"));
    let arguments = ["--checkpoint", "owner/tiny/original", "--output", text(&model)];
    // Put there by other means: known by its digest.
    copy_folder(&there.path().join("original"), &folder.join("original"));
    let summary = hub.export(&arguments);
    assert!(hub.requests("model.safetensors").is_empty());
    assert!(!summary["hub"]["fetched"].to_string().contains("original"), "{summary}");

    // Another file of the same length, touched after it was known.
    let weights = folder.join("original/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(&weights).unwrap().set_modified(later).unwrap();
    let sentence = hub.failure(&arguments);
    assert!(
        sentence.contains(
            "model.safetensors` is another file than `original/model.safetensors` of the commit"
        ),
        "{sentence}"
    );
    assert_eq!(fs::read(&weights).unwrap(), bytes);

    // One of an earlier commit, which is said.
    fs::write(&weights, fs::read(there.path().join("original/model.safetensors")).unwrap())
        .unwrap();
    hub.export(&arguments);
    fs::write(
        there.path().join("original/config.json"),
        fs::read_to_string(folder.join("original/config.json")).unwrap() + " ",
    )
    .unwrap();
    let sentence = hub.failure(&arguments);
    assert!(
        sentence.contains(&format!("(it is of {COMMIT}: to stay with that, put @{COMMIT} behind the repository's name, and --download-dir {}", text(&folder))),
        "{sentence}"
    );
}

#[cfg(unix)]
#[test]
fn what_the_cache_has_becomes_regular_files() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    // As huggingface_hub lays it out.
    let cached = hub.home.path().join("hub/models--owner--tiny");
    let snapshot = cached.join("snapshots").join(COMMIT);
    fs::create_dir_all(cached.join("blobs")).unwrap();
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::create_dir_all(snapshot.join("original")).unwrap();
    fs::write(cached.join("refs/main"), COMMIT).unwrap();
    for file in ["original/config.json", "original/model.safetensors"] {
        let bytes = fs::read(there.path().join(file)).unwrap();
        let name = digest(&bytes, file.ends_with(".safetensors"));
        fs::write(cached.join("blobs").join(&name), bytes).unwrap();
        std::os::unix::fs::symlink(format!("../../../blobs/{name}"), snapshot.join(file)).unwrap();
    }
    let model = here.path().join("model.onnx");
    let arguments = ["--checkpoint", "owner/tiny/original", "--output", text(&model), "--offline"];
    let summary = hub.export(&arguments);
    assert_eq!(summary["weights"]["in_place"], true);
    assert!(hub.requests("").is_empty());
    let weights = here.path().join("owner--tiny/original/model.safetensors");
    assert!(weights.symlink_metadata().unwrap().is_file());
    same(&there.path().join("original/model.safetensors"), &weights);

    // Online its bytes come from the cache too, under whichever commit they are
    // there, unless they are damaged.
    let other = cached.join("snapshots/ffffffffffffffffffffffffffffffffffffffff");
    fs::rename(&snapshot, &other).unwrap();
    fs::remove_dir_all(here.path().join("owner--tiny")).unwrap();
    hub.export(&arguments[..4]);
    assert!(hub.requests("model.safetensors").is_empty());
    fs::remove_dir_all(here.path().join("owner--tiny")).unwrap();
    let blob = other.join("original/model.safetensors").canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[5000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    hub.export(&arguments[..4]);
    assert_eq!(hub.requests("/cdn/original/model.safetensors").len(), 1);
    same(&there.path().join("original/model.safetensors"), &weights);
}

#[test]
fn offline_without_a_copy_is_refused() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    let output = here.path().join("model.onnx");
    let run = hub
        .command(&["--checkpoint", REPOSITORY, "--output", text(&output)])
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let sentence = hub.sentence(&run);
    assert!(
        sentence.contains("`config.json` of `owner/tiny` is neither in the folder for it nor in"),
        "{sentence}"
    );
    assert!(hub.requests("").is_empty());
    assert!(contents(here.path()).is_empty());
}

#[test]
fn headers_alone_make_the_graph_that_the_weights_make() {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    let (ahead, after) = (here.path().join("ahead.onnx"), here.path().join("after.onnx"));
    for name in [REPOSITORY, "owner/tiny/original"] {
        for target in ["onnx", "ort"] {
            let options = ["--target", target];
            let base = ["--checkpoint", name, "--output", text(&ahead), "--headers-only"];
            let summary = hub.export(&[&base[..], &options].concat());
            assert_eq!(
                (&summary["fingerprint"], &summary["weights"]["in_place"]),
                (&Value::Null, &json!(true))
            );
            assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > 800_000, "{summary}");
            let weights = |file: &String| file.ends_with(".safetensors");
            assert!(!files(here.path()).iter().any(weights));

            let base = ["--checkpoint", name, "--output", text(&after)];
            let summary = hub.export(&[&base[..], &options].concat());
            assert_eq!(summary["hub"]["awaited"], json!([]));
            let found = python("structure.py", &[text(&ahead), text(&after)], &Value::Null);
            assert_eq!(found["equal"], true);
            let of_weights = ["gpt_oss_export.contents", "gpt_oss_export.fingerprint"];
            assert_eq!(found["only_in_second"], json!(of_weights));
            // The weights lie where it said.
            assert!(logit_errors(&ahead, "onnxruntime", &["2x40"])[0] < 1e-5);
            fs::remove_dir_all(here.path().join("owner--tiny")).unwrap();
        }
    }
}

#[test]
fn the_real_sizes_by_headers_alone() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let total = crate::sizes::sparse(there.path(), 36, 128, 7);
    let hub = Double::serving(there.path());
    let model = here.path().join("model.onnx");
    let summary =
        hub.export(&["--checkpoint", REPOSITORY, "--output", text(&model), "--headers-only"]);
    assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > total);
    assert!(summary["hub"]["bytes_fetched"].as_u64().unwrap() < 100_000);
    let expected = export(&[
        "--checkpoint",
        text(there.path()),
        "--output",
        text(&there.path().join("tiny.onnx")),
    ]);
    assert_eq!(summary["model"]["nodes"], expected["model"]["nodes"]);
    let external =
        python("check.py", &[text(&model), "--structure-only"], &Value::Null)["external"].clone();
    for tensor in external.as_array().unwrap() {
        // Each range is in the file that will be there.
        let file = tensor["file"].as_str().unwrap().strip_prefix("owner--tiny/").unwrap();
        let length = fs::metadata(there.path().join(file)).unwrap().len();
        assert!(tensor["offset"].as_u64().unwrap() + tensor["length"].as_u64().unwrap() <= length);
    }
}

#[test]
fn headers_alone_where_weights_must_be_made_or_read() {
    let (there, here) = (in_folder("split"), tempfile::tempdir().unwrap());
    let hub = Double::serving(&there.path().join("checkpoint"));
    let output = here.path().join("model.onnx");
    let base = ["--checkpoint", REPOSITORY, "--output", text(&output), "--headers-only"];
    let sentence = hub.failure(&base);
    assert!(
        sentence.contains("cannot read them from `") && sentence.contains("several of its tensors"),
        "{sentence}"
    );
    let sentence = hub.failure(&[&base[..], &["--external-data", "copy"]].concat());
    assert_eq!(sentence, "--headers-only fetches no weights, and --external-data copy needs them");
    let elsewhere = tempfile::tempdir().unwrap();
    let sentence = hub.failure(&[&base[..], &["--download-dir", text(elsewhere.path())]].concat());
    assert!(sentence.contains("not in the folder of the model or below"), "{sentence}");
    assert!(!output.exists());
}
