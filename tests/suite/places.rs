//! A folder without a checkpoint, or with other files under a checkpoint's names: what is said of it.

use std::fs;

use crate::support::{Home, assert_contains, cases, copy_folder, fixture, shell};

#[track_caller]
fn assert_said(table: &str) {
    for [edit, sentence] in cases(table) {
        let home = Home::new();
        copy_folder(&fixture("tiny-hf"), &home.join("C"));
        let (status, _, error) = shell(edit, &home);
        assert_eq!((status, &*error), (Some(0), ""), "{edit}");
        let (status, _, error) = shell("\"$0\" --checkpoint C --output m.onnx", &home);
        assert_eq!(status, Some(1), "{edit}: {error}");
        assert_contains(&error, sentence);
        assert!(!home.join("m.onnx").exists());
    }
}

#[test]
fn a_checkpoint_nearby_is_named() {
    assert_said(
        "mkdir -p D/snapshots/0123; mv C/* D/snapshots/0123; rmdir C; mv D C | `C` holds no config.json; `C/snapshots/0123` in it holds a checkpoint
        mkdir D; mv C D/model; mv D C | `C` holds no config.json; `C/model` in it holds a checkpoint
        mkdir D; cp -r C D/b; mv C D/a; mv D C | several folders in it hold checkpoints, `C/a`, `C/b`: choose one
        mkdir C/x; mv C/*.json C/*.safetensors C/x; cp C/x/config.json C | `C` holds no model.safetensors; `C/x` in it holds a checkpoint
        rm C/* | `C` holds no config.json: it is empty",
    );
}

#[test]
fn a_file_under_another_name_is_named() {
    assert_said(
        "mv C/config.json C/Config.json | `C` holds no config.json, but `Config.json`: rename it to config.json if it is that file
        mv C/config.json C/config.json.txt | but `config.json.txt`: rename
        mv C/config.json 'C/config (1).json' | but `config (1).json`: rename
        mv C/config.json C/confg.json | but `confg.json`: rename
        mv C/model.safetensors C/MODEL.SAFETENSORS | `C` holds no model.safetensors, but `MODEL.SAFETENSORS`: rename it to model.safetensors
        mv C/model.safetensors C/model.safetensors.bak | but `model.safetensors.bak`: rename
        mv C/model.safetensors C/model.safetensor | but `model.safetensor`: rename
        mv C/model.safetensors C/model.safetensors.incomplete | model.safetensors.incomplete` is an unfinished download: finish it or download again
        mv C/model.safetensors C/model.safetensors.crdownload | is an unfinished download
        rm C/config.json; mv C/model.safetensors C/gpt-oss.tar.gz | gpt-oss.tar.gz` is an archive: unpack it and export the folder that was in it
        rm C/config.json; mv C/model.safetensors C/gpt-oss.zip | gpt-oss.zip` is an archive
        rm C/*; touch C/params.json | params.json` is a config in Meta's or Mistral's format
        rm C/*; touch C/model.onnx C/model.onnx_data | is an ONNX model and no checkpoint: use the SafeTensors checkpoint",
    );
}

#[test]
fn a_link_to_nothing_is_named() {
    assert_said(
        "ln -sf ../blobs/01 C/config.json | `C/config.json` is a link to `../blobs/01`, where nothing is: download it again
        ln -sf ../blobs/01 C/model.safetensors | `C/model.safetensors` is a link to `../blobs/01`, where nothing is: download it again
        rm C/model.safetensors; ln -s gone C/other.safetensors | `C/other.safetensors` is a link to `gone`",
    );
}

#[test]
fn other_formats_are_known_by_their_first_bytes() {
    let table: [(&[u8], &str); 6] = [
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0model/data.pkl", "is a ZIP archive, as PyTorch's"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "is a pickle, as older"),
        (b"\x80\x04\x95\x20\0\0\0\0\0\0\0}", "is a pickle, as older"),
        (
            b"GGUF\x03\0\0\0\xcb\x01\0\0\0\0\0\0",
            "is GGUF, llama.cpp's format, under another name: use",
        ),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "is HDF5"),
        (&[0; 4096], "is zeros, as an unfinished download is: download it again"),
    ];
    for (bytes, what) in table {
        let home = Home::with("tiny-hf");
        fs::write(home.join("checkpoint/model.safetensors"), bytes).unwrap();
        assert_contains(&home.refusal("m", &[]), &format!("model.safetensors` {what}"));
    }
}

#[test]
fn far_names_are_not_suggested() {
    let home = Home::new();
    copy_folder(&fixture("tiny"), &home.join("llama-7b"));
    for name in ["gpt-oss-20b", "phi-mini", "lima", "qwen"] {
        let (status, _, error) =
            shell(&format!("\"$0\" --checkpoint {name} --output m.onnx"), &home);
        assert_eq!(status, Some(1));
        assert!(!error.contains("did you mean"), "{error}");
    }
}
