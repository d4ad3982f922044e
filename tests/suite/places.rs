//! A folder without a checkpoint, or with other files under a checkpoint's names: what is said of it.

use std::collections::BTreeMap;
use std::fs;

use crate::layout_fixtures::write_index;
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

#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn a_checkpoint_nearby_is_named() {
    assert_said(
        "mkdir -p D/snapshots/0123; mv C/* D/snapshots/0123; rmdir C; mv D C | `C` holds no config.json; `C/snapshots/0123` in it holds a checkpoint
        mkdir D; mv C D/best; touch D/logits.npy; mv D C | `C` holds no config.json; `C/best` in it holds a checkpoint
        mkdir D; mv C D/model; mv D C | `C` holds no config.json; `C/model` in it holds a checkpoint
        mkdir D; cp -r C D/b; mv C D/a; mv D C | several folders in it hold checkpoints, `C/a`, `C/b`: choose one
        mkdir C/x; mv C/*.json C/*.safetensors C/x; cp C/x/config.json C | `C` holds no model.safetensors; `C/x` in it holds a checkpoint
        rm C/* | `C` holds no config.json: it is empty",
    );
}

/// What lies deeper than the folder that was given, and the folder in it to export, or none.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn what_lies_deeper_is_named() {
    // `save F` makes a checkpoint, `adapter F` an adapter, `file P` an empty file.
    let functions = "save() { mkdir -p $1 && cp ../base/* $1; }; adapter() { mkdir -p $1 && cp ../adapter/* $1; }; file() { mkdir -p $(dirname $1) && touch $1; }";
    let table = "save a/b/c | `C` holds no config.json; `C/a/b/c` in it holds a checkpoint: use it | C/a/b/c
        save a/b/c/d/e/f | `C` holds no config.json: add the files that the checkpoint lacks |
        save hub/models--openai--gpt-oss-20b/snapshots/0123; file xet/a/b | `C/hub/models--openai--gpt-oss-20b/snapshots/0123` in it holds a checkpoint: use it | C/hub/models--openai--gpt-oss-20b/snapshots/0123
        mkdir -p s/abc; ln -s ../../blobs/1 s/abc/config.json | `C/s/abc/config.json` is a link to `../../blobs/1`, where nothing is: download it again, or copy what it links to along with it |
        file manifests/registry.ollama.ai/library/gpt-oss/20b; file blobs/sha256-e7b273f9 | `C/blobs/sha256-e7b273f9` in it is Ollama's store of models, in GGUF: use the SafeTensors checkpoint |
        file sha256-e7b273f9 | `C/sha256-e7b273f9` is Ollama's store of models, in GGUF: use the SafeTensors checkpoint |
        file models/manifests/x; file models/blobs/sha256-e7b273f9 | `C/models/manifests` in it is Ollama's store of models |
        save a/b/c; save z | `C/z` in it holds a checkpoint: use it | C/z
        save checkpoint-500; save checkpoint-1000 | several folders in it hold checkpoints, `C/checkpoint-500`, `C/checkpoint-1000`: choose one, such as the last, `C/checkpoint-1000` | C/checkpoint-1000
        save run/step_9; save run/step_10; save run/step_100 | such as the last, `C/run/step_100` | C/run/step_100
        save run/9; save other/10 | several folders in it hold checkpoints, `C/other/10`, `C/run/9`: choose one | C/run/9
        save gpt-oss-120b; save gpt-oss-20b | `C/gpt-oss-20b`, `C/gpt-oss-120b`: choose one | C/gpt-oss-120b
        save checkpoint-500; mkdir checkpoint-1000 | `C/checkpoint-500` in it holds a checkpoint: use it | C/checkpoint-500
        cp ../base/config.json .; save epoch_1 | `C` holds no model.safetensors; `C/epoch_1` in it holds a checkpoint | C/epoch_1
        ln -s ../base link | `C` holds no config.json: add the files |
        adapter lora | `C/lora/adapter_config.json` is a LoRA adapter: export the checkpoint of its base model with it; pass --checkpoint BASE --adapter C/lora | C/lora
        adapter math; adapter code | `C` holds no config.json; several folders in it hold LoRA adapters, `C/code`, `C/math`: choose one, and export the checkpoint of its base model with it; pass --checkpoint BASE --adapter C/code | C/code
        adapter run/checkpoint-90; adapter run/checkpoint-100 | choose one, such as the last, `C/run/checkpoint-100`, and export the checkpoint of its base model with it; pass --checkpoint BASE --adapter C/run/checkpoint-100 | C/run/checkpoint-100
        adapter lora; save merged | `C/merged` in it holds a checkpoint | C/merged
        file gguf/gpt-oss.gguf | `C` holds no config.json, and `C/gguf/gpt-oss.gguf` in it is GGUF, llama.cpp's format: use the SafeTensors checkpoint |
        file checkpoints/1000/default/_METADATA | `C/checkpoints/1000/default/_METADATA` in it is Orbax's format |
        file 1000/ocdbt.process_0/d/1; file 1000/manifest.ocdbt | `C/1000/manifest.ocdbt` in it is Orbax's format |
        file step-9/.metadata; file step-9/__0_0.distcp; file step-10/__0_0.distcp | `C/step-10/__0_0.distcp` in it is PyTorch's format of distributed checkpoints (DCP) |
        file checkpoint-10/pytorch_model_fsdp_0/__0_0.distcp | `C/checkpoint-10/pytorch_model_fsdp_0` in it is PyTorch's format of distributed |
        file epoch_0/hf_model_0001_0.pt | `C/epoch_0/hf_model_0001_0.pt` in it is torchtune's save in PyTorch's format: save it as SafeTensors (`safe_serialization: True` of its FullModelHFCheckpointer) |
        file 100/checkpoint_metadata.json; file 100/model_config.json | in it is Nanotron's format, in parts as each process saved them |
        file step_100/train_dataloader.pt; file step_100/policy/weights/__0_0.distcp | `C/step_100/policy/weights/__0_0.distcp` in it is PyTorch's format of distributed checkpoints (DCP) |
        file rollout/global_dataset_state_dict_99.pt; file iter_0000100/__0_0.distcp | `C/iter_0000100/__0_0.distcp` in it is |
        file global_step_100/data.pt; file global_step_100/actor/model_world_size_8_rank_0.pt; file global_step_100/actor/huggingface/config.json | `C/global_step_100/actor/model_world_size_8_rank_0.pt` in it is verl's format for FSDP, in parts as each process saved them: run `python -m verl.model_merger merge --backend fsdp --local_dir FOLDER --target_dir OUTPUT` on the folder of these files and export OUTPUT |";
    for [edit, sentence, folder] in cases(table) {
        let home = Home::new();
        copy_folder(&fixture("tiny-hf"), &home.join("base"));
        copy_folder(&fixture("lora/attention"), &home.join("adapter"));
        fs::create_dir(home.join("C")).unwrap();
        let (status, _, error) = shell(&format!("{functions}; cd C; {edit}"), &home);
        assert_eq!((status, &*error), (Some(0), ""), "{edit}");
        for command in ["--checkpoint C --output m.onnx", "inspect C"] {
            let (status, _, error) = shell(&format!("\"$0\" {command}"), &home);
            assert_eq!((status, error.lines().count()), (Some(1), 1), "{edit}: {error}");
            assert_contains(&error, sentence);
        }
        let source = match home.join(folder).join("adapter_config.json").exists() {
            _ if folder.is_empty() => continue,
            true => format!("base --adapter {folder}"),
            false => folder.to_owned(),
        };
        let export = format!("\"$0\" --checkpoint {source} --output m.onnx");
        let (status, _, error) = shell(&export, &home);
        assert_eq!(status, Some(0), "{edit}: {error}");
    }
}

/// Files that were saved in parts beside the folder of a config, and files that have nothing to do
/// with it.
#[test]
fn parts_beside_a_config_are_named() {
    let table = "model_world_size_2_rank_0.pt model_world_size_2_rank_1.pt | CHECKPOINT` holds no model.safetensors, and `PARENT/model_world_size_2_rank_0.pt` beside it is verl's format
        mp_rank_00_model_states.pt | `PARENT/mp_rank_00_model_states.pt` beside it is DeepSpeed's format
        __0_0.distcp | `PARENT/__0_0.distcp` beside it is PyTorch's format of distributed
        other.gguf | CHECKPOINT` holds no model.safetensors: add
        other.zip | CHECKPOINT` holds no model.safetensors: add";
    for [files, sentence] in cases(table) {
        let home = Home::with("tiny-hf");
        fs::remove_file(home.join("checkpoint/model.safetensors")).unwrap();
        files.split(' ').for_each(|name| fs::write(home.join(name), "").unwrap());
        let parent = dunce::canonicalize(&*home).unwrap();
        assert_contains(
            &home.refusal("m", &[]),
            &sentence
                .replace("PARENT", parent.to_str().unwrap())
                .replace("CHECKPOINT", home.checkpoint().to_str().unwrap()),
        );
    }
}

/// The advice to rename a file is followed.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn files_are_renamed_by_content() {
    // What is done to a folder, the end of the sentence, and what it says.
    let table = "mv C/config.json C/configuration.json | but `configuration.json`, which has its keys: rename it to config.json | mv C/configuration.json C/config.json
        mv C/config.json 'C/config - Copy.json' | but `config - Copy.json`, which has its keys: rename | mv 'C/config - Copy.json' C/config.json
        mv C/config.json C/gpt-oss.json; cp C/gpt-oss.json C/config.json.bak; echo broken > C/gpt-oss.json | but `config.json.bak`, which | mv C/config.json.bak C/config.json
        mv C/config.json C/hf.json; echo '{\"framework\": \"pytorch\"}' > C/configuration.json | but `hf.json`, which has its keys | mv C/hf.json C/config.json
        mv C/config.json C/a.json; cp C/a.json C/b.json | but several files with its keys, `a.json`, `b.json`: rename that of these weights to config.json | mv C/b.json C/config.json";
    for [edit, sentence, remedy] in cases(table) {
        let home = Home::new();
        copy_folder(&fixture("tiny-hf"), &home.join("C"));
        shell(edit, &home);
        let export = "\"$0\" --checkpoint C --output m.onnx";
        let (_, _, error) = shell(export, &home);
        assert_contains(&error, sentence);
        let (status, _, error) = shell(&format!("{remedy} && {export}"), &home);
        assert_eq!(status, Some(0), "{edit}: {error}");
    }
}

#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn a_file_under_another_name_is_named() {
    assert_said(
        "mv C/config.json C/Config.json | `C` holds no config.json, but `Config.json`, which has its keys: rename it to config.json
        rm C/config.json; touch C/config.json.txt | but `config.json.txt`: rename it to config.json if it is that file
        rm C/config.json; touch 'C/config (1).json' | but `config (1).json`: rename
        rm C/config.json; touch C/confg.json | but `confg.json`: rename
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

/// Unfinished downloads, parts and pointers: beside a file, and in the place of one of which others
/// are there.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn what_is_in_the_place_of_files_is_named() {
    let split = "mv C/model.safetensors C/model-00001-of-00002.safetensors";
    assert_said(
        "touch C/model.safetensors.aria2 | `C/model.safetensors.aria2` is the state of an unfinished download by aria2, so `model.safetensors` lacks data: run `aria2c -c` with the same address in this folder, or delete the state if the file is whole
        truncate -s 300000 C/model.safetensors; touch C/model.safetensors.aria2 | `C/model.safetensors.aria2` is the state of
        touch C/config.json.aria2 | so `config.json` lacks data: run `aria2c
        touch C/model.safetensors.st | by axel, so `model.safetensors` lacks data: run `axel`
        touch C/model.safetensors.lftp-pget-status | by lftp, so `model.safetensors` lacks data: run `pget -c`
        mv C/model.safetensors C/model.safetensors.part-aa | `C/model.safetensors.part-aa` is a part of a file that was split: join all parts in the order of their names, as `cat FILE.part-* > FILE` does
        mv C/model.safetensors C/model.safetensors.gz | `C/model.safetensors.gz` is an archive or a compressed file: unpack it
        mv C/model.safetensors C/model.safetensors.zst | `C/model.safetensors.zst` is an archive or a compressed file: unpack it
        mv C/model.safetensors C/model.safetensors.001 | is a part of a file that was split
        mv C/model.safetensors C/model.safetensors.aa | is a part of a file that was split
        mv C/model.safetensors C/.model.safetensors.Ab12Cd | `C/.model.safetensors.Ab12Cd` is an unfinished copy by rsync: run the same `rsync` again
        mv C/model.safetensors C/model.safetensors.dvc | `C/model.safetensors.dvc` is a pointer of DVC, not the file itself: run `dvc pull`
        mv C/config.json C/config.json.dvc | `C/config.json.dvc` is a pointer of DVC
        mv C/config.json C/config.json.crdownload | `C/config.json.crdownload` is an unfinished download: download it again
        mv C/model.safetensors C/.model.safetensors.icloud | is a placeholder of iCloud
        mv C/model.safetensors C/model.safetensors.tmp | is an unfinished download
        mv C/model.safetensors C/model.safetensors.lock | is the lock of a download
        ln -sf .git/annex/objects/Qx/1/MD5E-s1 C/model.safetensors | where nothing is: run `git annex get` on it
        echo /annex/objects/MD5E-s9--0 > C/model.safetensors | is a pointer of git-annex, not the file itself: run `git annex get` on it",
    );
    for (name, what) in [
        ("model-00002-of-00002.safetensors.part", "is an unfinished download: download it again"),
        ("model-00002-of-00002.safetensors.dvc", "is a pointer of DVC, not the file itself: run"),
        (".model-00002-of-00002.safetensors.x1Y2z3", "is an unfinished copy by rsync"),
        ("model-00002-of-00002.safetensors.aria2", "is the state of an unfinished download by"),
        ("model-00002-of-00002.safetensors.part-ab", "is a part of a file that was split"),
    ] {
        assert_said(&format!(
            "{split}; touch C/{name} | it lacks `model-00002-of-00002.safetensors`: add what is missing, or rename the one that is there to model.safetensors if it is the whole checkpoint; `{name}` {what}"
        ));
    }
}

#[test]
fn unfinished_downloads_from_the_hub_are_named() {
    let home = Home::with("tiny-hf");
    let checkpoint = home.checkpoint();
    write_index(
        &checkpoint,
        BTreeMap::from([("a", "model.safetensors"), ("b", "model-2.safetensors")]),
    );
    let downloads = checkpoint.join(".cache/huggingface/download");
    fs::create_dir_all(&downloads).unwrap();
    let missing = "names the shard `model-2.safetensors`, which is missing: add it";
    let sentence = home.refusal("m", &[]);
    assert!(sentence.contains(missing) && !sentence.contains("hf download"), "{sentence}");
    fs::write(downloads.join("Ab-12=.0123.incomplete"), "").unwrap();
    let again = "; a download into this folder is unfinished: run the same `hf download` again";
    assert_contains(&home.refusal("m", &[]), &(missing.to_owned() + again));
}

/// Of a whole file others are left by downloads that were begun again.
#[test]
fn leftovers_beside_whole_files_are_no_matter() {
    let table = "model.safetensors.part
        model.safetensors.dvc
        .model.safetensors.Ab12Cd
        config.json.crdownload
        model.safetensors.lock
        other.safetensors.aria2";
    for name in table.split_whitespace() {
        let home = Home::with("tiny-hf");
        fs::write(home.checkpoint().join(name), "").unwrap();
        home.export("m", &[]);
    }
}

#[cfg_attr(windows, ignore = "needs sh")]
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
        openvino_model.bin openvino_model.xml | openvino_model.bin` is OpenVINO's format: use the SafeTensors
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

#[cfg_attr(windows, ignore = "needs sh")]
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

#[cfg_attr(windows, ignore = "needs sh")]
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

/// The weights of an adapter without its config, wherever they are given; with the config they are
/// an adapter.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn adapters_without_a_config_are_told_as_such() {
    let table = "--checkpoint A --output m.onnx | A/adapter_model.safetensors
        --checkpoint A/adapter_model.safetensors --output m.onnx | A/adapter_model.safetensors
        --checkpoint D --output m.onnx | D/A/adapter_model.safetensors
        --checkpoint C --adapter A --output m.onnx | A/adapter_model.safetensors
        --checkpoint C --adapter A/adapter_model.safetensors --output m.onnx | A/adapter_model.safetensors
        --checkpoint C --adapter D/A --output m.onnx | D/A/adapter_model.safetensors
        --weights A/adapter_model.safetensors --output m.onnx | A/adapter_model.safetensors
        inspect A | A/adapter_model.safetensors
        inspect D | D/A/adapter_model.safetensors
        verify m.onnx --checkpoint C --adapter A | A/adapter_model.safetensors";
    let home = Home::new();
    copy_folder(&fixture("tiny-hf"), &home.join("C"));
    for folder in ["A", "D/A"] {
        copy_folder(&fixture("lora/attention"), &home.join(folder));
        fs::remove_file(home.join(folder).join("adapter_config.json")).unwrap();
    }
    for [line, file] in cases(table) {
        let (status, _, error) = shell(&format!("\"$0\" {line}"), &home);
        let expected = format!(
            "error: `{file}` is a LoRA adapter without its adapter_config.json: put the one that was saved with it beside it\n"
        );
        assert_eq!((status, error), (Some(1), expected), "{line}");
    }
    fs::copy(fixture("lora/attention/adapter_config.json"), home.join("A/adapter_config.json"))
        .unwrap();
    let line = "\"$0\" --checkpoint C --adapter A --output m.onnx";
    assert_eq!(shell(line, &home).0, Some(0));
}

/// A file that runtimes load in the place of the folder that it was made from.
#[cfg_attr(windows, ignore = "needs sh")]
#[test]
fn adapters_for_runtimes_are_told_as_such() {
    let home = Home::new();
    copy_folder(&fixture("tiny-hf"), &home.join("C"));
    fs::copy(fixture("lora/minimal.onnx_adapter"), home.join("x.onnx_adapter")).unwrap();
    for line in [
        "--checkpoint C --adapter x.onnx_adapter --output m.onnx",
        "verify m.onnx --checkpoint C --adapter x.onnx_adapter",
    ] {
        let (status, _, error) = shell(&format!("\"$0\" {line}"), &home);
        let expected = "error: `x.onnx_adapter` is an adapter for runtimes: give the LoRA folder that it was made from\n";
        assert_eq!((status, &*error), (Some(1), expected), "{line}");
    }
}
