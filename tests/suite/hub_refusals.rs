//! What is asked of a hub in vain, and the sentence for it.

use std::fs;

use serde_json::json;

use crate::derived::{config, write_shards};
use crate::double::{Double, Fault, REPOSITORY};
use crate::hub_faults::setting;
use crate::support::{contents, text};

#[test]
fn answers_that_are_final() {
    let it = setting();
    let none = ("x-none", "");
    let cases = [
        (
            401,
            none,
            "there is no folder `owner/tiny/original` here, and the hub shows no such repository to those without a token (HUB answers 401): check the name, or set HF_TOKEN to a token that may read it",
        ),
        (
            403,
            ("x-error-code", "GatedRepo"),
            "`owner/tiny` is not open to all (it answers 403): accept its terms on its page on the hub, and set HF_TOKEN to a token of that account",
        ),
        (
            404,
            none,
            "there is no folder `owner/tiny/original` here and no such repository on the hub (HUB answers 404)",
        ),
        (
            418,
            ("x-error-message", "a teapot"),
            "`HUB/api/models/owner/tiny/revision/main?blobs=true` answers 418: a teapot",
        ),
    ];
    for (status, header, expected) in cases {
        it.hub.fail("?blobs=true", 1, Fault::Status(status, header));
        assert_eq!(it.hub.failure(&it.arguments()), expected);
        assert_eq!(it.hub.requests("").len(), 1, "asked once");
    }
    let output = text(&it.model);
    for (name, expected) in [
        (
            "owner/other",
            "there is no folder `owner/other` here and no such repository on the hub (HUB answers 404)",
        ),
        ("owner/tiny@v9", "`owner/tiny` has no revision `v9` on the hub"),
    ] {
        assert_eq!(it.hub.failure(&["--checkpoint", name, "--output", output]), expected);
    }
    it.hub.fail("?blobs=true", 1, Fault::Status(401, none));
    let run = it.hub.command(&it.arguments()).env("HF_TOKEN", "hf_x").output().unwrap();
    assert!(it.hub.sentence(&run).contains("no such repository to the owner of this token"));
    assert!(contents(it.here.path()).is_empty());
}

#[test]
fn what_cannot_be_exported_is_refused_before_its_weights_are_fetched() {
    let it = setting();
    let mut other = config();
    other["quantization_config"] = json!({"quant_method": "gptq"});
    fs::write(it.there.path().join("config.json"), other.to_string()).unwrap();
    let sentence = it.hub.failure(&["--checkpoint", REPOSITORY, "--output", text(&it.model)]);
    assert!(sentence.contains("quantized with \"gptq\""), "{sentence}");

    // A tensor that the layout does not know, seen in a header.
    let mut tensors = crate::derived::in_layout("hf");
    let extra = tensors["model.norm.weight"].clone();
    tensors.insert("model.extra".to_owned(), extra);
    write_shards(it.there.path(), tensors);
    fs::remove_dir_all(it.here.path().join("owner--tiny")).unwrap();
    let sentence = it.hub.failure(&["--checkpoint", REPOSITORY, "--output", text(&it.model)]);
    assert!(sentence.contains("holds tensor `model.extra`"), "{sentence}");
    assert!(it.has_no_weights());
    let ranged = it
        .hub
        .requests(".safetensors")
        .iter()
        .all(|request| request.range.as_deref() == Some("bytes=0-131071"));
    assert!(ranged, "headers alone");
}

#[test]
fn repositories_without_a_checkpoint() {
    let here = tempfile::tempdir().unwrap();
    let output = here.path().join("model.onnx");
    let config = config().to_string();
    let index = |shard: &str| json!({"weight_map": {"a": shard}}).to_string();
    let cases: [(&[(&str, &str)], &str); 6] = [
        (
            &[("model-Q4.gguf", "x")],
            "has no config.json at commit 0123456789abcdef0123456789abcdef01234567; it has GGUF, llama.cpp's format: use the SafeTensors checkpoint",
        ),
        (
            &[("original/config.json", "{}")],
            "has no config.json at commit 0123456789abcdef0123456789abcdef01234567; it has a checkpoint in `owner/tiny/original`",
        ),
        (
            &[("config.json", &config), ("pytorch_model.bin", "x")],
            "has no model.safetensors at commit 0123456789abcdef0123456789abcdef01234567; it has PyTorch's format",
        ),
        (
            &[("config.json", &config), ("a.safetensors", "x"), ("b.safetensors", "y")],
            "holds 2 .safetensors files and no model.safetensors.index.json",
        ),
        (
            &[
                ("config.json", &config),
                ("model.safetensors.index.json", &index("other.safetensors")),
            ],
            "names the shard \"other.safetensors\", which is not in the repository",
        ),
        (
            &[
                ("config.json", &config),
                ("model.safetensors.index.json", &index("../x.safetensors")),
            ],
            "names the shard \"../x.safetensors\", which is not a plain file name",
        ),
    ];
    for (listed, expected) in cases {
        let there = tempfile::tempdir().unwrap();
        for (path, text) in listed {
            fs::create_dir_all(there.path().join(path).parent().unwrap()).unwrap();
            fs::write(there.path().join(path), text).unwrap();
        }
        let hub = Double::serving(there.path());
        let sentence = hub.failure(&["--checkpoint", REPOSITORY, "--output", text(&output)]);
        assert!(sentence.contains(expected), "{sentence}");
        let _ = fs::remove_dir_all(here.path().join("owner--tiny"));
    }
}

#[test]
fn environment_variables_that_say_nothing() {
    let it = setting();
    for (name, value, expected) in [
        (
            "HF_ENDPOINT",
            "hub.example",
            "HF_ENDPOINT is \"hub.example\", and should be an address that begins with https:// or http://",
        ),
        (
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "soon",
            "HF_HUB_DOWNLOAD_TIMEOUT is \"soon\", and should be a number of seconds",
        ),
        (
            "SSL_CERT_FILE",
            "Cargo.toml",
            "`Cargo.toml`, which SSL_CERT_FILE names, holds no certificates",
        ),
    ] {
        let run = it.hub.command(&it.arguments()).env(name, value).output().unwrap();
        assert_eq!(it.hub.sentence(&run), expected);
    }
    let address = "http://127.0.0.1:1";
    let run = it.hub.command(&it.arguments()).env("HF_ENDPOINT", address).output().unwrap();
    let sentence = it.hub.sentence(&run);
    assert!(
        sentence.contains("failed 5 times in a row") && sentence.contains("refused"),
        "{sentence}"
    );
}

#[test]
fn options_for_the_hub_and_a_folder_that_is_here() {
    let it = setting();
    let folder = it.there.path().join("original");
    let base = ["--checkpoint", text(&folder), "--output", text(&it.model), "--headers-only"];
    let sentence = it.hub.failure(&base);
    assert!(
        sentence.ends_with(
            "are for repositories on the hub (owner/name), and `FOLDER` is here"
                .replace("FOLDER", text(&folder))
                .as_str()
        ),
        "{sentence}"
    );

    // A folder that could be a name is a folder.
    let owner = it.there.path().join("owner");
    fs::create_dir(&owner).unwrap();
    fs::rename(folder, owner.join("tiny")).unwrap();
    let arguments = ["--checkpoint", "owner/tiny", "--output", "owner/tiny/model.onnx"];
    let run = it.hub.command(&arguments).current_dir(it.there.path()).output().unwrap();
    assert!(run.status.success());
    assert!(it.hub.requests("").is_empty());
}
