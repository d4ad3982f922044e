//! Adapters on a fake hub.

use std::fs;

use serde_json::json;

use crate::fake_hub::{COMMIT, Fault, HubTest, LIST, REPOSITORY, files};
use crate::support::{
    Home, assert_contains, copy_folder, export_args, fixture, model_metadata, stage_args, text,
};

/// An adapter as its trainer leaves it, with files that no export needs.
fn adapter(name: &str, folder: &str) -> Home {
    let home = Home::new();
    copy_folder(&fixture("lora").join(name), &home.join(folder));
    fs::write(home.join("README.md"), "").unwrap();
    fs::write(home.join(folder).join("tokenizer.json"), "{}").unwrap();
    fs::write(home.join(folder).join("optimizer.pt"), "x").unwrap();
    home
}

const FILES: &str = "adapter_config.json adapter_model.safetensors";

#[test]
fn exports_adapters_in_place() {
    let mut test = HubTest::serving(adapter("experts", "."));
    test.model = test.here.join("out/model.onnx");
    copy_folder(&fixture("tiny-hf"), &test.here.join("out/checkpoint"));
    let checkpoint = test.here.join("out/checkpoint");
    for name in [
        REPOSITORY,
        "hf:owner/tiny",
        "owner/tiny@main",
        "https://huggingface.co/owner/tiny/tree/main",
    ] {
        let options = ["--adapter", name];
        let summary = test.hub.export(&export_args(&checkpoint, &test.model, &options));
        assert_eq!(files(&test.folder()).join(" "), FILES);
        assert_eq!(summary["weights"]["bytes_written"], 0, "{name}");
        let source = json!(format!("{REPOSITORY}@{COMMIT}"));
        assert_eq!(summary["adapters"][0]["source"], source);
        assert_eq!(model_metadata(&test.model)["adapters"][0]["source"], source);
    }
    for (given, weight) in [
        ("style=owner/tiny", 1.0),
        ("style=hf:owner/tiny=0.5", 0.5),
        ("style=owner/tiny@main=1e-1", 0.1),
        ("style=https://huggingface.co/owner/tiny=-2", -2.0),
    ] {
        let options = ["--adapter", given];
        let summary = test.hub.export(&export_args(&checkpoint, &test.model, &options));
        let adapter = &summary["adapters"][0];
        assert_eq!((&adapter["name"], &adapter["weight"]), (&json!("style"), &json!(weight)));
        assert_eq!(files(&test.folder()).join(" "), FILES);
    }
    // Again: the list is the only request, and none is sent offline.
    test.hub.take_requests("");
    let weighted = ["--adapter", "hf:owner/tiny=0.5"];
    let summary = test.hub.export(&export_args(&checkpoint, &test.model, &weighted));
    assert_eq!(summary["adapters"][0]["weight"], 0.5);
    assert_eq!(test.hub.take_requests("").len(), 1);
    let offline = [&weighted[..], &["--offline"]].concat();
    test.hub.export(&export_args(&checkpoint, &test.model, &offline));
    assert!(test.hub.take_requests("").is_empty());
    let merged = test.here.join("out/merged.safetensors");
    let options = ["--adapter", REPOSITORY, "--adapter-as", "merge"];
    test.hub.export(&stage_args(&checkpoint, &merged, &options));
}

/// The base on the hub too, and the adapter in a folder.
#[test]
fn exports_adapters_of_bases_on_the_hub() {
    let test = HubTest::new();
    copy_folder(&fixture("lora/attention"), &test.repository.join("tuned"));
    let options = ["--adapter", "owner/tiny@refs/pr/3/tuned"];
    let summary = test.hub.export(&[&test.root()[..], &options].concat());
    assert_eq!(summary["adapters"][0]["source"], format!("{REPOSITORY}@{COMMIT}/tuned"));
    assert_eq!(summary["hub"]["source"], format!("{REPOSITORY}@{COMMIT}"));
    assert_eq!(summary["weights"]["bytes_written"], 0);
    assert_eq!(
        files(&test.here.join("owner--tiny@refs-pr-3")).join(" "),
        "tuned/adapter_config.json tuned/adapter_model.safetensors"
    );
}

#[test]
fn refuses_adapters_that_are_not_there() {
    let test = HubTest::serving(adapter("experts", "."));
    copy_folder(&fixture("tiny-hf"), &test.here.join("checkpoint"));
    let checkpoint = test.here.join("checkpoint");
    let refuse = |options: &[&str]| {
        let sentence = test.hub.failure(&export_args(&checkpoint, &test.model, options));
        test.assert_no_model();
        sentence.replace(text(&test.here), "HERE")
    };
    for (name, expected) in [
        ("owner/other", "`owner/other` is neither a local folder nor a repository on HUB (404)"),
        ("owner/tiny@v2", "`owner/tiny` has no revision `v2` on HUB"),
        ("owner/tiny@main/tuned", "`owner/tiny/tuned` has no adapter_config.json at commit COMMIT"),
        (
            "hf:tiny",
            "hf: is for repositories on the hub (owner/name), and `hf:tiny` is not such a name",
        ),
        (
            "https://example.com/owner/tiny",
            "is not the address of a repository on the Hugging Face hub",
        ),
        ("tiny", "there is no folder `tiny`"),
    ] {
        assert_contains(&refuse(&["--adapter", name]), expected);
    }
    let offline = refuse(&["--adapter", REPOSITORY, "--offline"]);
    assert_contains(
        &offline,
        "`adapter_config.json` of `owner/tiny` is neither in the download folder `HERE/owner--tiny` nor in",
    );
    test.hub.take_requests("");
    fs::create_dir(test.here.join("owner")).unwrap();
    let mut command = test.hub.command(&[
        "--checkpoint",
        "checkpoint",
        "--output",
        "m.onnx",
        "--adapter",
        REPOSITORY,
    ]);
    let sentence = test.hub.sentence(command.current_dir(&*test.here));
    assert_contains(
        &sentence,
        "there is no folder `owner/tiny`; for the repository on the hub, pass --adapter hf:owner/tiny",
    );
    assert!(test.hub.take_requests("").is_empty());

    test.hub.fail("adapter_model.safetensors", 9, Fault::Flip(9000));
    assert_contains(&refuse(&["--adapter", REPOSITORY]), "arrived twice with digest");
    test.hub.fail(LIST, 9, Fault::Status(401, ""));
    assert_contains(
        &refuse(&["--adapter", REPOSITORY]),
        "shows no such repository to users without a token",
    );

    let test = HubTest::serving(adapter("experts", "."));
    fs::rename(
        test.repository.join("adapter_model.safetensors"),
        test.repository.join("adapter_model.bin"),
    )
    .unwrap();
    let sentence =
        test.hub.failure(&export_args(&checkpoint, &test.model, &["--adapter", REPOSITORY]));
    assert_contains(
        &sentence,
        "`owner/tiny` has no adapter_model.safetensors at commit COMMIT; it has adapter_model.bin: load it in PEFT and save it as SafeTensors",
    );
}
