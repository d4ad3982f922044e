//! Files that are where an export would write: whose they are decides what is advised.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::adapter_exports::export_in;
use crate::genai::{package, with_tokenizer};
use crate::support::{
    Home, assert_contains, assert_ends, cases, contents, copy_folder, edit_json, fixture, shell,
    text,
};

/// A checkpoint, an adapter, a staged file, and files of other programs, each in the place of what
/// an export would write. No advice is to delete what an export did not write.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn files_that_are_read_or_of_others_are_never_to_be_deleted() {
    let table = "--checkpoint checkpoint --save-weights checkpoint/model.safetensors --skip-onnx | `checkpoint/model.safetensors` is a file of the checkpoint, which is read: choose another name
        --checkpoint checkpoint --save-weights checkpoint/../checkpoint/model.safetensors --output m.onnx | is a file of the checkpoint, which is read: choose another name
        --checkpoint checkpoint --save-weights link.safetensors --skip-onnx | `link.safetensors` is a file of the checkpoint, which is read: choose another name
        --checkpoint checkpoint --experts int4 --save-weights checkpoint/model.safetensors --skip-onnx | is a file of the checkpoint
        --checkpoint checkpoint --adapter lora --adapter-as merge --save-weights lora/adapter_model.safetensors --skip-onnx | `lora/adapter_model.safetensors` is a file of an adapter, which is read: choose another name
        --checkpoint checkpoint --adapter lora/adapter_model.safetensors --adapter-as merge --save-weights lora/adapter_model.safetensors --skip-onnx | is a file of an adapter
        --weights staged.safetensors --experts int4 --save-weights staged.safetensors --skip-onnx | `staged.safetensors` is a file of the staged weights, which is read: choose another name
        --checkpoint checkpoint --save-weights other.safetensors --skip-onnx | `other.safetensors` exists, and no export wrote it: choose another name
        --checkpoint checkpoint --save-weights text.safetensors --skip-onnx | `text.safetensors` exists, and no export wrote it: choose another name
        --checkpoint checkpoint --save-weights folder.safetensors --skip-onnx | `folder.safetensors` exists, and no export wrote it: choose another name
        --checkpoint checkpoint --experts int4 --save-weights staged.safetensors --skip-onnx | `staged.safetensors` exists and differs from the file to write (other weights, another format, or a damaged copy): no model in its folder or above reads it; delete it and export again, or choose another name";
    let home = Home::with("tiny-hf");
    copy_folder(&fixture("lora/attention"), &home.join("lora"));
    home.stage("staged", &[]);
    fs::copy(fixture("tiny/model.safetensors"), home.join("other.safetensors")).unwrap();
    fs::write(home.join("text.safetensors"), "notes").unwrap();
    fs::create_dir(home.join("folder.safetensors")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("checkpoint/model.safetensors", home.join("link.safetensors"))
        .unwrap();
    let before = contents(&home);
    for [options, sentence] in cases(table) {
        let (status, _, error) = shell(&format!("\"$0\" {options}"), &home);
        assert_eq!(status, Some(1), "{options}: {error}");
        assert_contains(&error, sentence);
        assert!(!error.contains("delete") || options.contains("staged"), "{error}");
        assert!(contents(&home) == before, "{options}");
    }
}

/// Adapters under other names, in another order or with other weights, exported into one folder: each
/// model has a copy of its own, and a repeated export reuses it.
#[test]
fn exports_with_renamed_adapters_share_a_folder() {
    let home = Home::with("tiny-hf");
    for (adapter, name) in [("attention", "a"), ("attention", "b"), ("experts", "e")] {
        copy_folder(&fixture("lora").join(adapter), &home.join(name));
    }
    let table = "--adapter a
        --adapter b
        --adapter a --adapter e
        --adapter e --adapter a
        --adapter a=0.5
        --adapter a --adapter-as merge
        --adapter b --adapter-as merge
        --adapter e --adapter b --adapter-as merge
        --adapter b --adapter e --adapter-as merge
        --adapter a --dense int8";
    for pass in ["m", "n"] {
        for (at, options) in table.lines().enumerate() {
            let line = format!("--output out/{pass}{at}.onnx --external-data copy {options}");
            let summary = export_in(&home, &line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let written = summary["weights"]["bytes_written"].as_u64().unwrap() > 0;
            assert_eq!(written, pass == "m", "{line}");
        }
    }
}

/// A copy that an export wrote and that was damaged is in the way, wherever its name comes from.
#[test]
fn advice_of_damaged_copies_works() {
    let home = Home::with("tiny-hf");
    copy_folder(&fixture("lora/attention"), &home.join("lora"));
    for options in ["", "--adapter lora", "--adapter lora --adapter-as merge"] {
        let line =
            |folder: &str| format!("--output {folder}/m.onnx --external-data copy {options}");
        let summary = export_in(&home, &line("out")).unwrap();
        let copy = home.join(summary["weights"]["written"][0].as_str().unwrap());
        crate::support::flip_last_bit(&copy);
        let sentence = export_in(&home, &line("out")).unwrap_err();
        let advice = "`out/m.onnx` reads it; choose another folder, or delete it and export that model again";
        assert_contains(&sentence, advice);
        export_in(&home, &line("elsewhere")).unwrap();
        fs::remove_file(&copy).unwrap();
        export_in(&home, &line("out")).unwrap();
        fs::remove_dir_all(home.join("out")).unwrap();
        fs::remove_dir_all(home.join("elsewhere")).unwrap();
    }
}

/// Weights that an export wrote, in a folder without a checkpoint: what each command takes.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn staged_files_in_a_folder_are_named_for_each_command() {
    let home = Home::with("tiny");
    let (model, _) = home.export("m", &[]);
    fs::create_dir(home.join("S")).unwrap();
    home.stage("S/one", &[]);
    let said = |line: &str| shell(&format!("\"$0\" {line}"), &home);
    let expected = "`S` holds no config.json, but weights that an export wrote: give `S/one.safetensors` in its place; pass";
    let staged = ["--weights S/one.safetensors", "--checkpoint S/one.safetensors"];
    let verify = format!("verify {} --checkpoint S", text(&model));
    for (line, option) in [("--checkpoint S --output x.onnx", staged[0]), (&verify, staged[1])] {
        let (status, _, error) = said(line);
        assert_eq!(status, Some(1));
        assert_ends(error.trim_end(), &format!("{expected} {option}"));
    }
    assert_eq!(said("--weights S/one.safetensors --output x.onnx").0, Some(0));
    home.stage("S/two", &["--experts", "int4"]);
    // A copy of a model with an adapter cannot be exported by itself.
    copy_folder(&fixture("lora/attention"), &home.join("lora"));
    export_in(&home, "--output S/m.onnx --external-data copy --adapter lora").unwrap();
    let (status, _, error) = said("--checkpoint S --output x.onnx");
    assert_eq!(status, Some(1));
    let expected = "but several files of weights that exports wrote, `S/one.safetensors`, `S/two.safetensors`: give one of them in its place, such as the first; pass --weights S/one.safetensors";
    assert_ends(error.trim_end(), expected);
    let only = Path::new("S/two.safetensors");
    assert_eq!(said(&format!("--weights {} --output y.onnx", only.display())).0, Some(0));
    // Parts of the weights are no checkpoint.
    for (folder, options) in [("P", "--stages 2"), ("Q", "--max-shard-size 400kB")] {
        let line = format!("--output {folder}/m.onnx --external-data copy {options}");
        let written = export_in(&home, &line).unwrap()["weights"]["written"].clone();
        let (_, _, error) = said(&format!("--checkpoint {folder} --output x.onnx"));
        assert_contains(
            &error,
            &format!(
                "`{folder}` holds no config.json, but weights of an exported model, `{folder}/weights-"
            ),
        );
        for part in written.as_array().unwrap() {
            let (_, _, error) =
                said(&format!("--weights {} --output x.onnx", part.as_str().unwrap()));
            assert_contains(
                &error,
                "` holds a part of the weights of an exported model: give the checkpoint that it was exported from",
            );
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn keeps_config_of_another_model() {
    let home = with_tokenizer();
    let [model, other] = ["checkpoint/model", "checkpoint/other"];
    let replaced =
        |model: &str, options: &[&str]| package(&home, model, options)["genai"]["replaced"] == true;
    assert!(!replaced(model, &[]));
    assert!(!replaced(model, &[]), "it is the same");
    assert!(replaced(model, &["--max-length", "99"]));
    assert!(replaced(model, &["--target", "ort"]));
    let sentence = home.refusal(other, &["--genai"]);
    assert_contains(&sentence, "describes another model, `model.onnx`, and");
    fs::remove_file(home.join("checkpoint/genai_config.json")).unwrap();
    assert!(!replaced(other, &[]));
}

/// A config is replaced if an export wrote it as it is, whatever the difference is.
#[test]
fn keeps_edited_config() {
    let kept = "genai_config.json` differs from the file to write, and is not as the export of `model.onnx` wrote it, so that edits would be lost: move it away, or choose another output folder";
    let edits: [fn(&mut Value); 4] = [
        |it| it["search"]["temperature"] = json!(0.3),
        |it| it["search"]["max_length"] = json!(77),
        |it| it["model"]["decoder"]["session_options"]["intra_op_num_threads"] = json!(4),
        |it| *it = json!({"model": {"decoder": {"filename": "gone.onnx"}}}),
    ];
    for edit in edits {
        let home = with_tokenizer();
        package(&home, "checkpoint/model", &[]);
        edit_json(&home.join("checkpoint/genai_config.json"), edit);
        for options in [&[][..], &["--max-length", "99"]] {
            let sentence = home.refusal("checkpoint/model", &[&["--genai"], options].concat());
            assert_contains(&sentence, kept);
        }
        home.export("checkpoint/model", &[]);
        assert_contains(&home.refusal("checkpoint/model", &["--genai"]), kept);
    }
    // Its other files are never replaced.
    for name in ["tokenizer.json", "generation_config.json"] {
        let home = with_tokenizer();
        package(&home, "out/model", &[]);
        edit_json(&home.join("out").join(name), |it| it["edited"] = json!(true));
        let sentence = home.refusal("out/model", &["--genai"]);
        assert_contains(&sentence, &format!("out/{name}` differs from "));
    }
}

/// Weights files of former exports are mentioned once no model beside them reads them, and kept.
#[test]
fn former_weights_are_mentioned() {
    let home = Home::with("tiny-hf");
    let copy = ["--external-data", "copy"];
    let export = |name: &str, options: &[&str]| {
        let (_, summary) = home.export(name, &[&copy, options].concat());
        (summary["weights"]["unread"].clone(), summary["weights"]["written"][0].clone())
    };
    let (unread, first) = export("out/m", &[]);
    assert_eq!(unread, Value::Null);
    assert_eq!(export("out/n", &["--dense", "int8"]).0, Value::Null, "another model reads it");
    let (unread, _) = export("out/m", &["--dense", "int8"]);
    assert_eq!(unread, json!([first]));
    let printed = home.printed_summary("out/m", &[&copy[..], &["--dense", "int8"]].concat());
    let row =
        format!("{}: no model reads it any more; you may delete it\n", first.as_str().unwrap());
    assert_contains(&printed, &row);
    assert!(Path::new(first.as_str().unwrap()).exists());
    fs::write(home.join("out/unknown.onnx"), "no model").unwrap();
    assert_eq!(export("out/m", &["--dense", "int8"]).0, Value::Null, "it may read anything");
}
