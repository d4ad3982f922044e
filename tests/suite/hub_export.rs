//! Exports of checkpoints on a fake hub, and refusals of requests that it cannot serve.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::fake_hub::{
    COMMIT, FORMER_NAME, Fault, HubTest, LIST, REPOSITORY, WEIGHTS, digest, files,
};
use crate::inspect::inspect;
use crate::layout_fixtures::{config, in_layout, write_index, write_shards};
use crate::sizes::sparse;
use crate::support::{
    Home, assert_contains, assert_ends, cases, contents, copy_folder, export, export_args, fixture,
    model_metadata, printed, sentence, text,
};

#[test]
fn exports_repository_in_place() {
    let mut test = HubTest::new();
    // A folder that the export creates.
    test.model = test.here.join("out/model.onnx");
    let summary = test.hub.export(&test.root());
    let fetched = files(&test.folder());
    let expected = "chat_template.jinja config.json generation_config.json \
        model-00000-of-00002.safetensors model-00001-of-00002.safetensors \
        model-00002-of-00002.safetensors model.safetensors.index.json tokenizer.json \
        tokenizer_config.json";
    assert_eq!(fetched.join(" "), expected);
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

/// Adapters are read before a base is downloaded, and their copies of its values compared after.
#[test]
fn exports_repository_with_adapters() {
    let test = HubTest::new();
    let adapter = text(&fixture("lora/router-head")).to_owned();
    let export = |more: &[&str]| test.hub.export(&[&test.root()[..], more].concat());
    let refuse = |more: &[&str]| test.hub.failure(&[&test.root()[..], more].concat());
    let dora = text(&fixture("lora/dora")).to_owned();
    assert_contains(&refuse(&["--adapter", &dora]), "key `use_dora` is set");
    assert!(test.hub.take_requests("").is_empty());
    let square = text(&fixture("lora/square")).to_owned();
    assert_contains(&refuse(&["--adapter", &square]), "to fit the given base");
    assert!(!test.hub.take_requests("").iter().any(|it| it.path.contains("tokenizer")));
    let half = format!("{adapter}=0.5");
    let sentence = refuse(&["--adapter", &half, "--headers-only"]);
    assert_contains(&sentence, "the weight of an adapter needs weight data");
    assert_contains(
        &refuse(&["--adapter", &adapter, "--headers-only"]),
        "router-head/adapter_model.safetensors` in place: it is outside",
    );

    let copied = test.here.join("adapter");
    copy_folder(&fixture("lora/router-head"), &copied);
    let summary = export(&["--adapter", text(&copied), "--headers-only"]);
    assert_eq!(summary["fingerprint"], json!(null));
    assert!(summary["adapters"][0]["fingerprint"].is_string());

    let summary = export(&["--adapter", &format!("{}=0.5", text(&copied))]);
    assert_eq!(summary["weights"]["bytes_written"], 0);
}

#[test]
fn exports_original_folder_with_root_tokenizer() {
    let test = HubTest::new();
    let folder = test.here.join("weights");
    let name = format!("{REPOSITORY}@refs/pr/3/original");
    let options = ["--genai", "--download-dir", text(&folder)];
    let summary = test.hub.export(&export_args(Path::new(&name), &test.model, &options));
    let expected = "chat_template.jinja generation_config.json original/config.json \
        original/model.safetensors tokenizer.json tokenizer_config.json";
    assert_eq!(files(&folder).join(" "), expected);
    assert_eq!(summary["weights"]["files"], json!(["weights/original/model.safetensors"]));
    assert_eq!(summary["genai"]["missing"], json!(["special_tokens_map.json"]));
    assert_eq!(summary["genai"]["eos_token_ids"], json!([1]));
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}/original"));
    let tokenizer = |folder: &Path| fs::read(folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer(&test.repository), tokenizer(&test.here));
}

#[test]
fn sends_token_to_hub_only() {
    let test = HubTest::new();
    let arguments = test.named(FORMER_NAME);
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

    let other = test.here.join("other");
    fs::write(&other, "hf_other").unwrap();
    fs::write(test.hub.home.join("token"), "hf_stored\n").unwrap();
    for (name, value, expected) in [
        ("HF_TOKEN", "", Some("Bearer hf_stored")),
        ("HF_TOKEN_PATH", text(&other), Some("Bearer hf_other")),
        ("HF_HUB_CACHE", text(&test.here), Some("Bearer hf_stored")),
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
    let repo = test.hub.home.join("hub/models--owner--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    for folder in [repo.join("blobs"), repo.join("refs"), snapshot.join("original")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for file in ["original/config.json", "original/model.safetensors"] {
        let bytes = fs::read(test.repository.join(file)).unwrap();
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
    let remote = Home::new();
    let total = sparse(&remote, 36, 128, 7);
    let test = HubTest::serving(remote);
    let headers_only = [&test.root()[..], &["--headers-only"]].concat();
    let summary = test.hub.export(&headers_only);
    assert!(summary["hub"]["bytes_awaited"].as_u64().unwrap() > total);
    assert!(summary["hub"]["bytes_fetched"].as_u64().unwrap() < 100_000);
    let again = printed(&mut test.hub.command(&headers_only));
    let next =
        "next     the same command without --headers-only fetches 65.2 GB, and the model runs";
    assert_contains(&again, &format!("{next}\n"));
    let remote = &*test.repository;
    let expected = export(&export_args(remote, &remote.join("local.onnx"), &[]));
    assert_eq!(summary["model"]["nodes"], expected["model"]["nodes"]);
    // It fails, since the data is not there.
    let inspected = inspect(&test.model, &[]);
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
    let remote = Home::new();
    write_shards(&remote, &config(), in_layout("split"));
    let (test, elsewhere) = (HubTest::serving(remote), Home::new());
    let base = [&test.root()[..], &["--headers-only"]].concat();
    for (options, expected) in [
        (&[][..], "several of its tensors"),
        (&["--external-data", "copy"], "a copy of the weights needs weight data, and only headers"),
        (&["--download-dir", text(&elsewhere)], "outside the model's folder"),
    ] {
        assert_contains(&test.hub.failure(&[&base[..], options].concat()), expected);
    }
    test.hub.take_requests("");
    let sentence = sentence(test.hub.command(&base).env("TRANSFORMERS_OFFLINE", "1"));
    assert_contains(&sentence, "and TRANSFORMERS_OFFLINE forbids to ask: run");
    assert!(test.hub.take_requests(LIST).is_empty() && !test.model.exists());
}

/// The numbers of shards decide without an index; a tied lm_head is compared with the embedding
/// once both are there.
#[test]
fn exports_numbered_shards_and_tied_copies() {
    for is_copy in [true, false] {
        let (remote, mut config, mut tensors) = (Home::new(), config(), in_layout("hf"));
        config["tie_word_embeddings"] = json!(true);
        if is_copy {
            let embedding = tensors["model.embed_tokens.weight"].clone();
            tensors.insert("lm_head.weight".to_owned(), embedding);
        }
        write_shards(&remote, &config, tensors);
        fs::remove_file(remote.join("model.safetensors.index.json")).unwrap();
        let test = HubTest::serving(remote);
        if is_copy {
            test.hub.export(&test.root());
        } else {
            assert_contains(&test.hub.failure(&test.root()), "another `lm_head.weight`");
            assert!(!test.model.exists());
            test.hub.export(&[&test.root()[..], &["--ignore-tensor=lm_head.weight"]].concat());
        }
    }
}

#[test]
fn refuses_repository_that_hub_does_not_list() {
    let test = HubTest::new();
    let table = "401 | | `owner/tiny/original` is not a local folder, and HUB shows no such repository to users without a token (401): check the name, or set HF_TOKEN to a token with access
        403 | x-error-code: GatedRepo | `HUB/api/models/owner/tiny/revision/main?blobs=true` answered 403; if access is restricted, accept the repository's terms on its page on the hub, and set HF_TOKEN to a token of that account
        404 | | `owner/tiny/original` is neither a local folder nor a repository on HUB (404): check the name
        418 | x-error-message: a teapot | `HUB/api/models/owner/tiny/revision/main?blobs=true` answered 418: a teapot";
    for [status, header, expected] in cases(table) {
        test.hub.fail(LIST, 1, Fault::Status(status.parse().unwrap(), header));
        assert_eq!(test.hub.failure(&test.original()), expected);
        assert_eq!(test.hub.take_requests("").len(), 1, "asked once");
    }
    for (name, expected) in [
        (
            "owner/other",
            "`owner/other` is neither a local folder nor a repository on HUB (404): check the name",
        ),
        (
            "owner/tiny@v9",
            "`owner/tiny` has no revision `v9` on HUB: check the name of the branch, tag or commit",
        ),
    ] {
        assert_eq!(test.hub.failure(&test.named(name)), expected);
    }
    test.hub.fail(LIST, 1, Fault::Status(401, ""));
    let sentence = test.hub.sentence(test.hub.command(&test.original()).env("HF_TOKEN", "hf_x"));
    assert_contains(&sentence, "no such repository to the owner of this token");
    assert!(contents(&test.here).is_empty());
}

#[test]
fn refuses_unsupported_checkpoints_before_fetching_weights() {
    let test = HubTest::new();
    let mut quantized = config();
    quantized["quantization_config"] = json!({"quant_method": "gptq"});
    fs::write(test.repository.join("config.json"), quantized.to_string()).unwrap();
    assert_contains(&test.hub.failure(&test.root()), "quantized with \"gptq\"");

    // A tensor that the layout does not have.
    let mut tensors = in_layout("hf");
    let extra = tensors["model.norm.weight"].clone();
    tensors.insert("model.extra".to_owned(), extra);
    write_shards(&test.repository, &config(), tensors);
    fs::remove_dir_all(test.folder()).unwrap();
    assert_contains(&test.hub.failure(&test.root()), "MXFP4 experts: `model.extra`; ignore");
    test.assert_no_weights();
    assert!(test.hub.take_requests(".safetensors").is_empty(), "nothing but headers");
}

#[test]
fn refuses_repositories_without_checkpoint() {
    // Files, and the shard that an index names.
    let table = r#"model-Q4.gguf | | has no config.json at commit COMMIT; it has GGUF, llama.cpp's format: use the SafeTensors checkpoint
        original/config.json | | has no config.json at commit COMMIT; it has a checkpoint in `owner/tiny/original`
        config.json pytorch_model.bin | | has no model.safetensors at commit COMMIT; it has PyTorch's format
        config.json a.safetensors b.safetensors | | holds 2 .safetensors files and no model.safetensors.index.json
        config.json model-00001-of-00002.safetensors | | has no index, and of the shards that its files belong to it lacks `model-00002-of-00002.safetensors`: add what is missing
        config.json model.safetensors other.safetensors | other.safetensors | programs differ in which they read
        config.json | other.safetensors | names the shard `other.safetensors`, which is missing: add it
        config.json adapter_config.json model.safetensors | | `owner/tiny/adapter_config.json` is a LoRA adapter beside a whole model
        config.json model.safetensors.index.fp16.json a.fp16.safetensors | | `owner/tiny` holds no model.safetensors.index.json, but one for each saved variant, `model.safetensors.index.fp16.json`
        config.json | ../x.safetensors | names the shard "../x.safetensors", which is not a plain file name"#;
    for [files, shard, expected] in cases(table) {
        let remote = Home::new();
        for path in files.split(' ').map(|name| remote.join(name)) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, config().to_string()).unwrap();
        }
        if !shard.is_empty() {
            write_index(&remote, json!({"a": shard}));
        }
        let test = HubTest::serving(remote);
        assert_contains(&test.hub.failure(&test.root()), expected);
        test.assert_no_weights();
    }
}

#[test]
fn refuses_invalid_environment_variables() {
    let test = HubTest::new();
    let table = r#"HF_ENDPOINT | hub.example | HF_ENDPOINT is "hub.example", expected a URL that begins with https:// or http://
        HF_HUB_DOWNLOAD_TIMEOUT | soon | HF_HUB_DOWNLOAD_TIMEOUT is "soon", expected a number of seconds
        SSL_CERT_FILE | Cargo.toml | `Cargo.toml`, named by SSL_CERT_FILE, contains no certificates: set it to a PEM file of them"#;
    for [name, value, expected] in cases(table) {
        let mut command = test.hub.command(&test.original());
        assert_eq!(test.hub.sentence(command.env(name, value)), expected);
    }
    let mut unreachable = test.hub.command(&test.original());
    let sentence = test.hub.sentence(unreachable.env("HF_ENDPOINT", "http://127.0.0.1:1"));
    assert!(sentence.contains("failed 5 times in a row") && sentence.contains("refused"));
}

#[test]
fn refuses_hub_options_for_local_folder() {
    let test = HubTest::new();
    let folder = test.repository.join("original");
    let sentence = test.hub.failure(&export_args(&folder, &test.model, &["--headers-only"]));
    let expected = format!("on the hub (owner/name), and `{}` is a local path", text(&folder));
    assert_ends(&sentence, &expected);
}
