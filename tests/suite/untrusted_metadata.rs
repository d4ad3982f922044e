//! Names, links and metadata in files of others are checked before they are used.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::layout_fixtures::{
    config, drop_experts, edit_config, edited, home, in_layout, write_index,
};
use crate::support::{
    Home, assert_contains, assert_starts, binary, cases, contents, copy_folder, export,
    export_args, failure, fixture, printed, sentence, split_safetensors, stage_args, staged_args,
    text, words,
};

fn edit_metadata(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let (header, data) = split_safetensors(&bytes);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let text = &mut header["__metadata__"]["gpt_oss_export"];
    let mut metadata = serde_json::from_str(text.as_str().unwrap()).unwrap();
    edit(&mut metadata);
    *text = metadata.to_string().into();
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), data].concat()).unwrap();
}

#[test]
fn refuses_edited_metadata_of_weights_files() {
    // Files are named by fingerprints.
    let table = r#"tiny | | /format | 9 | was staged in format 9
        tiny | | /fingerprint | "x/../../escaped/file" | is not a fingerprint of 12 hexadecimal digits
        tiny | | /fingerprint | "0123456789a" | is not a fingerprint of 12 hexadecimal digits
        tiny | | /fingerprint | "0123456789AB" | is not a fingerprint of 12 hexadecimal digits
        tiny | | /fingerprint | "0123456789ab0" | is not a fingerprint of 12 hexadecimal digits
        tiny | | /fingerprint | "" | is not a fingerprint of 12 hexadecimal digits
        tiny | --experts int4 | /experts/format | "mxfp4" | experts are in int4, expected mxfp4
        tiny | | /dense/format | "f32" | are in bf16, expected f32
        tiny | --experts int4 | /experts/origin | "\u001b[2Jmxfp4" | "\u{1b}[2Jmxfp4" is not a format of matrices
        tiny | --experts int4 | /experts/relative_error | -1 | relative error of experts is -1
        tiny | | /config/head_dim | 31 | `head_dim` must be even, found 31
        tiny | | /config/hidden_size | 0 | must be a whole number from 1 to 4294967295, found 0
        tiny | | /config/num_kv_heads | 0 | must be a whole number from 1 to 4294967295, found 0
        tiny | | /config/experts_per_token | 0 | must be a whole number from 1 to 4294967295, found 0
        tiny | | /config/windows/0 | 0 | must be a whole number from 1 to 4294967295, found 0
        tiny | | /config/swiglu_limit | "7" | invalid metadata
        tiny | | /config/swiglu_limit | -7.0 | must be a positive number, found -7
        tiny | | /config/swiglu_limit | 0.0 | must be a positive number, found 0
        tiny | | /config/rope/factor | -3.0 | must be a positive number, found -3
        tiny-128 | --experts int8 | /config/hidden_size | 120 | `hidden_size` must be a multiple of 32, the block size, found 120"#;
    for [name, options, key, value, expected] in cases(table) {
        let options = &words(options);
        let home = Home::new();
        let (staged, model) = (home.join("w.safetensors"), home.join("a/b/m.onnx"));
        export(&stage_args(&fixture(name), &staged, options));
        edit_metadata(&staged, |metadata| {
            *metadata.pointer_mut(key).unwrap() = value.parse().unwrap();
        });
        assert_contains(&failure(&staged_args(&staged, &model, &[])), expected);
        assert_eq!(contents(&home).len(), 1, "nothing but the staged file");
        // Nor is it reused as the file that another run would write.
        let sentence = failure(&stage_args(&fixture(name), &staged, options));
        assert_contains(&sentence, "exists and differs from the file to write");
    }
}

/// The routers of a pruned model tell the number of experts; the config must hold all the same.
#[test]
fn refuses_invalid_numbers_of_experts_beside_pruned_routers() {
    let mut pruned = in_layout("bf16");
    drop_experts(&mut pruned, 1, 5, true);
    let home = home(&config(), &pruned);
    let (staged, _) = home.stage("w", &[]);
    let original = fs::read(&staged).unwrap();
    for (numbers, expected) in [
        (json!([8]), "found 3 windows and 1 numbers"),
        (json!([0, 7, 5]), "must be a whole number from 1 to 4294967295, found 0"),
    ] {
        fs::write(&staged, &original).unwrap();
        edit_metadata(&staged, |metadata| metadata["config"]["experts"] = numbers);
        assert_contains(&failure(&["inspect", text(&staged)]), expected);
    }
}

/// Such as two checkpoints in one folder.
#[test]
fn refuses_index_beside_other_weights() {
    let home = edited(|folder| {
        fs::copy(folder.join("model.safetensors"), folder.join("old.safetensors")).unwrap();
        write_index(folder, json!({"embedding.weight": "old.safetensors"}));
    });
    let checkpoint = home.checkpoint();
    for sentence in [home.refusal("m", &[]), failure(&["inspect", text(&checkpoint)])] {
        assert_contains(&sentence, "programs differ in which they read");
    }
    fs::remove_file(checkpoint.join("model.safetensors")).unwrap();
    home.export("m", &[]);
}

#[cfg(unix)]
#[test]
fn broken_links_are_not_taken_for_absent() {
    use std::os::unix::fs::symlink;
    let home = edited(|folder| {
        fs::remove_file(folder.join("config.json")).unwrap();
        symlink("blob", folder.join("config.json")).unwrap();
    });
    let error = failure(&["inspect", text(&home.checkpoint())]);
    assert!(error.contains("config.json") && !error.contains("holds no"), "{error}");
    // Such a folder is not the name of a repository.
    fs::create_dir(home.join("home")).unwrap();
    symlink("nowhere", home.join("home/link")).unwrap();
    let mut command = binary(&["--checkpoint", "home/link", "--output", "m.onnx"]);
    let error = sentence(command.current_dir(&*home));
    assert_starts(&error, "there is no folder `home/link`");
}

/// ONNX's checker takes any name that begins with two dots for the folder above.
#[test]
fn folder_named_with_dots_is_not_read_in_place() {
    let home = Home::new();
    let (hidden, model) = (home.join("..hidden"), home.join("m.onnx"));
    copy_folder(&fixture("tiny"), &hidden);
    let summary = export(&export_args(&hidden, &model, &[]));
    assert_eq!(summary["weights"]["in_place"], false);
    assert_contains(summary["weights"]["obstacle"].as_str().unwrap(), "begins with two dots");
}

#[cfg(unix)]
#[test]
fn control_characters_in_paths_are_escaped() {
    let home = Home::new();
    let tiny = home.join("tiny\u{1b}[2J\nwritten  /etc/passwd");
    copy_folder(&fixture("tiny"), &tiny);
    let model = home.join("model\u{1b}[2J.onnx");
    let printed = printed(&mut binary(&export_args(&tiny, &model, &[])));
    assert!(printed.contains(r"model\u{1b}[2J.onnx") && !printed.contains('\u{1b}'), "{printed}");
    assert_contains(&printed, r"tiny\u{1b}[2J\nwritten  /etc/passwd");
    assert!(!printed.contains("\nwritten  /etc/passwd"), "{printed}");
}

#[test]
fn recognizes_names_of_wrappers_and_adapters() {
    type Rename = fn(String) -> Vec<String>;
    let adapter = "holds a LoRA adapter that is not merged";
    let base = "holds the base layers of a LoRA adapter without its factors";
    let cases: [(Rename, &str); 4] = [
        (|name| vec![name.replace("q_proj.weight", "q_proj.base_layer.weight")], base),
        (|name| vec![name.replace("mlp.experts", "mlp.experts.base_layer")], base),
        (|name| vec![format!("{name}.lora_A.weight"), name], adapter),
        (
            |name| vec![name.replace("input_layernorm", "other")],
            "lacks `model.layers.0.input_layernorm.weight` [96] and 2 more of ",
        ),
    ];
    for (rename, expected) in cases {
        let renamed = in_layout("hf").into_iter().flat_map(|(name, tensor)| {
            rename(name).into_iter().map(move |name| (name, tensor.clone()))
        });
        let home = home(&config(), &renamed.collect());
        assert_contains(&failure(&["inspect", text(&home.checkpoint())]), expected);
    }
}

/// Absent keys mean different things to different programs.
#[test]
fn refuses_config_without_rope_scaling() {
    let home = Home::with("tiny-hf");
    edit_config(&home.checkpoint(), "\"rope_scaling\"", "\"rope_scaled\"");
    let sentence = failure(&["inspect", text(&home.checkpoint())]);
    assert_contains(&sentence, "lacks the key `rope_scaling` (`rope_parameters`");
}
