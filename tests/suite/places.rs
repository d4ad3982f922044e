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
        mv C/model.safetensors C/model.safetensors.incomplete | model.safetensors.incomplete` is an unfinished download: download it again
        mv C/model.safetensors C/model.safetensors.crdownload | is an unfinished download
        rm C/config.json; mv C/model.safetensors C/gpt-oss.tar.gz | gpt-oss.tar.gz` is an archive or a compressed file: unpack it, and use the files that are in it
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

/// Folders of other programs, with a config.json and without.
#[test]
fn saves_in_other_formats_are_named() {
    let table = "flax_model.msgpack | flax_model.msgpack` is Flax's format: convert it to Hugging Face's names and SafeTensors with the program that wrote it
        flax_model-00001-of-00002.msgpack | is Flax's format: convert
        tf_model.h5 | tf_model.h5` is TensorFlow's format: convert
        saved_model.pb variables | saved_model.pb` is TensorFlow's format: convert
        iter_0000100 latest_checkpointed_iteration.txt | latest_checkpointed_iteration.txt` is NeMo's or Megatron's format: convert it to Hugging Face's (
        mp_rank_00 mp_rank_01 | mp_rank_00` is NeMo's or Megatron's format
        _CHECKPOINT_METADATA d manifest.ocdbt | _CHECKPOINT_METADATA` is Orbax's format, of JAX programs: convert
        d manifest.ocdbt | manifest.ocdbt` is Orbax's format
        rank0.engine rank1.engine | rank0.engine` is an engine of TensorRT-LLM: use the SafeTensors
        model.bin shared_vocabulary.json | model.bin` is CTranslate2's format: use the SafeTensors
        model.bin vocabulary.txt | model.bin` is CTranslate2's format: use the SafeTensors
        model.bin | model.bin` is OpenAI's format for Metal
        model.onnx model.onnx.data | model.onnx` is an ONNX model and no checkpoint: use the
        gpt-oss-20b-mxfp4.gguf | gpt-oss-20b-mxfp4.gguf` is GGUF, llama.cpp's format: use the
        pytorch_model.bin.index.json pytorch_model-00001-of-00002.bin | is an index of files in PyTorch's format: load it
        adapter_config.json adapter_model.safetensors | adapter_config.json` is a LoRA adapter
        weights.npz | weights.npz` is an array of NumPy";
    for [files, sentence] in cases(table) {
        for config in [None, Some("{}"), Some(r#"{"model_type": "gpt_oss"}"#)] {
            let home = Home::new();
            let folder = home.checkpoint();
            fs::create_dir(&folder).unwrap();
            for name in files.split(' ') {
                fs::write(folder.join(name), "").unwrap();
            }
            config.iter().for_each(|it| fs::write(folder.join("config.json"), it).unwrap());
            let found = home.refusal("m", &[]);
            assert_contains(&found, sentence);
            // Beside an adapter, a config is read too.
            assert!(found.lines().count() == 1 || files.contains("adapter"), "{found}");
        }
    }
}

#[test]
fn what_is_missing_is_to_be_added() {
    assert_said(
        "rm C/config.json | `C` holds no config.json: copy the one that was saved with its weights into it
        rm C/model.safetensors | `C` holds no model.safetensors: add the files that the checkpoint lacks
        touch C/adapter_config.json; mv C/model.safetensors C/adapter_model.safetensors | `C/adapter_config.json` is a LoRA adapter: export the checkpoint of its base model with it; pass --checkpoint BASE --adapter C
        touch C/adapter_config.json; rm C/model.safetensors | `C/adapter_config.json` is a LoRA adapter: export the checkpoint of its base model with it; pass --checkpoint BASE --adapter C
        touch C/adapter_config.json | `C/adapter_config.json` is a LoRA adapter beside a whole model, and the model may have it or lack it
        mv C/model.safetensors C/rank0.safetensors; echo '{\"pretrained_config\": {\"architecture\": \"GPTForCausalLM\"}}' > C/config.json | `C/config.json` is a config of TensorRT-LLM, not of a checkpoint: use",
    );
    let home = Home::with("tiny-hf");
    fs::write(home.join("checkpoint/adapter_config.json"), "{}").unwrap();
    for path in ["checkpoint/", "checkpoint//", "./checkpoint/."] {
        let (_, _, error) = shell(&format!("\"$0\" --checkpoint {path} --output m.onnx"), &home);
        assert_contains(&error, "checkpoint/adapter_config.json` is a LoRA adapter beside");
        assert!(!error.contains("//") && !error.contains("/./"), "{error}");
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
