//! Refusals of requests that a hub cannot serve.

use std::fs;

use serde_json::json;

use crate::derived::{config, in_layout, write_shards};
use crate::fake_hub::{COMMIT, Fault, HubTest, LIST, NO_HEADER};
use crate::support::{assert_contains, contents, export_args, text};

#[test]
fn refuses_repository_that_hub_does_not_list() {
    let test = HubTest::new();
    for (status, header, expected) in [
        (
            401,
            NO_HEADER,
            "`owner/tiny/original` is not a local folder, and HUB shows no such repository to users without a token (401): check the name, or set HF_TOKEN to a token with access",
        ),
        (
            403,
            ("x-error-code", "GatedRepo"),
            "`HUB/api/models/owner/tiny/revision/main?blobs=true` answered 403; if access is restricted, accept the repository's terms on its page on the hub, and set HF_TOKEN to a token of that account",
        ),
        (
            404,
            NO_HEADER,
            "`owner/tiny/original` is neither a local folder nor a repository on HUB (404)",
        ),
        (
            418,
            ("x-error-message", "a teapot"),
            "`HUB/api/models/owner/tiny/revision/main?blobs=true` answered 418: a teapot",
        ),
    ] {
        test.hub.fail(LIST, 1, Fault::Status(status, header));
        assert_eq!(test.hub.failure(&test.original()), expected);
        assert_eq!(test.hub.take_requests("").len(), 1, "asked once");
    }
    for (name, expected) in [
        ("owner/other", "`owner/other` is neither a local folder nor a repository on HUB (404)"),
        ("owner/tiny@v9", "`owner/tiny` has no revision `v9` on HUB"),
    ] {
        let arguments = ["--checkpoint", name, "--output", text(&test.model)];
        assert_eq!(test.hub.failure(&arguments), expected);
    }
    test.hub.fail(LIST, 1, Fault::Status(401, NO_HEADER));
    let sentence = test.hub.sentence(test.hub.command(&test.original()).env("HF_TOKEN", "hf_x"));
    assert_contains(&sentence, "no such repository to the owner of this token");
    assert!(contents(test.here.path()).is_empty());
}

#[test]
fn refuses_unsupported_checkpoints_before_fetching_weights() {
    let test = HubTest::new();
    let mut quantized = config();
    quantized["quantization_config"] = json!({"quant_method": "gptq"});
    fs::write(test.repository.path().join("config.json"), quantized.to_string()).unwrap();
    assert_contains(&test.hub.failure(&test.root()), "quantized with \"gptq\"");

    // A tensor that the layout does not have.
    let mut tensors = in_layout("hf");
    let extra = tensors["model.norm.weight"].clone();
    tensors.insert("model.extra".to_owned(), extra);
    write_shards(test.repository.path(), tensors);
    fs::remove_dir_all(test.folder()).unwrap();
    assert_contains(&test.hub.failure(&test.root()), "MXFP4 experts: `model.extra`; ignore");
    test.assert_no_weights();
    assert!(test.hub.take_requests(".safetensors").is_empty(), "nothing but headers");
}

#[test]
fn refuses_repositories_without_checkpoint() {
    let config = config().to_string();
    let index = |shard: &str| json!({"weight_map": {"a": shard}}).to_string();
    let [other, outside] = [index("other.safetensors"), index("../x.safetensors")];
    const INDEX: &str = "model.safetensors.index.json";
    let cases: [(&[(&str, &str)], &str); 7] = [
        (
            &[("model-Q4.gguf", "x")],
            "has no config.json at commit COMMIT; it has GGUF, llama.cpp's format: use the SafeTensors checkpoint",
        ),
        (
            &[("original/config.json", "{}")],
            "has no config.json at commit COMMIT; it has a checkpoint in `owner/tiny/original`",
        ),
        (
            &[("config.json", &config), ("pytorch_model.bin", "x")],
            "has no model.safetensors at commit COMMIT; it has PyTorch's format",
        ),
        (
            &[("config.json", &config), ("a.safetensors", "x"), ("b.safetensors", "y")],
            "holds 2 .safetensors files and no model.safetensors.index.json",
        ),
        (
            &[
                ("config.json", &config),
                (INDEX, &other),
                ("model.safetensors", "x"),
                ("other.safetensors", "y"),
            ],
            "programs differ in which they read",
        ),
        (
            &[("config.json", &config), (INDEX, &other)],
            "names the shard \"other.safetensors\", which is not in the repository",
        ),
        (
            &[("config.json", &config), (INDEX, &outside)],
            "names the shard \"../x.safetensors\", which is not a plain file name",
        ),
    ];
    for (listed, expected) in cases {
        let remote = tempfile::tempdir().unwrap();
        for (path, text) in listed {
            fs::create_dir_all(remote.path().join(path).parent().unwrap()).unwrap();
            fs::write(remote.path().join(path), text).unwrap();
        }
        let test = HubTest::serving(remote);
        assert_contains(&test.hub.failure(&test.root()), &expected.replace("COMMIT", COMMIT));
        assert!(test.hub.take_requests(".safetensors").is_empty());
    }
}

#[test]
fn refuses_invalid_environment_variables() {
    let test = HubTest::new();
    for (name, value, expected) in [
        (
            "HF_ENDPOINT",
            "hub.example",
            "HF_ENDPOINT is \"hub.example\", expected a URL that begins with https:// or http://",
        ),
        (
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "soon",
            "HF_HUB_DOWNLOAD_TIMEOUT is \"soon\", expected a number of seconds",
        ),
        (
            "SSL_CERT_FILE",
            "Cargo.toml",
            "`Cargo.toml`, named by SSL_CERT_FILE, contains no certificates",
        ),
    ] {
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
    let folder = test.repository.path().join("original");
    let sentence = test.hub.failure(&export_args(&folder, &test.model, &["--headers-only"]));
    let expected = format!("on the hub (owner/name), and `{}` is a local path", text(&folder));
    assert!(sentence.ends_with(&expected), "{sentence}");
}
