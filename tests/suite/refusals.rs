//! Refusals are one sentence that says what to do, and nothing is written.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::layout_fixtures::{
    Tensors, config, drop_experts, edit_config, edit_tensors, edited, home, in_folder, in_layout,
    narrow,
};
use crate::support::{
    Home, assert_contains, assert_ends, binary, cases, contents, copy_folder, export, export_args,
    failure, fixture, flip_last_bit, printed, resize, stage_args, staged_args, text, words,
};

#[test]
fn refuses_impossible_requests_before_writing() {
    // Who took the advice to use target `onnx` on a GPU is not sent back.
    let table = "tiny | --layers 4 | cannot keep 4 layers: the checkpoint has 3
        tiny | --external-data in-place | it is outside the model's folder, where ONNX allows no external data; pass --external-data copy
        tiny | --external-data in-place --save-weights w.safetensors | ; pass --external-data auto
        tiny-1-kv | --target ort | target `ort` does not support a head_dim of 20: GroupQueryAttention needs a multiple of 8; use target `onnx`, with a cache if the model generates text; pass --target onnx
        tiny | --target=ort --functions | target `ort` does not support functions with experts in mxfp4: onnxruntime takes no scales of 8-bit floats as inputs of a function; export without functions, or for target `onnx`; pass --target onnx
        tiny | --for=cuda --keep-activations | execution provider `cuda` does not support keeping activations in float: its kernels have one way to multiply integers; do not ask to keep them
        tiny | --target=onnx --ep=cuda | execution provider `cuda` is for target `ort`: standard operators are the same for all providers; pass --target ort or --ep cpu
        tiny | --ignore-tensor foo | tiny` has no unknown tensor `foo`
        tiny | --ignore-config-key bar | config.json` has no unknown key `bar`
        tiny | --ignore-config-key head_dim | has no unknown key `head_dim`";
    for [name, options, expected] in cases(table) {
        let home = Home::new();
        let model = home.join("out/model.onnx");
        assert_contains(&failure(&export_args(&fixture(name), &model, &words(options))), expected);
        assert!(contents(&home).is_empty());
    }
}

/// Creates empty files, folders (`name/`), or copies of a fixture's files of the same name.
fn create(folder: &Path, names: &str) {
    for name in names.split(' ') {
        match name.split_once('/') {
            Some((name, "")) => fs::create_dir(folder.join(name)).unwrap(),
            Some((_, file)) => drop(fs::copy(fixture(name), folder.join(file)).unwrap()),
            None => fs::write(folder.join(name), "").unwrap(),
        }
    }
}

#[test]
fn refuses_unsupported_formats_with_alternative() {
    // Files that only training needs are no weights.
    let table = "| adapter_config.json adapter_model.safetensors | adapter_config.json` is a LoRA adapter: export the checkpoint of its base model with it; pass --checkpoint BASE --adapter HOME
        | tiny/config.json tiny/model.safetensors adapter_config.json | adapter_config.json` is a LoRA adapter beside a whole model, and the model may have it or lack it: move the adapter's files into a folder of their own, and add that if the model lacks it; pass --adapter FOLDER
        | tiny-hf/config.json pytorch_model-00001-of-00002.bin | pytorch_model-00001-of-00002.bin` is PyTorch's format, which can run code when it is read: load it in transformers and save it as SafeTensors
        x-MXFP4.gguf | x-MXFP4.gguf | x-MXFP4.gguf` is GGUF, llama.cpp's format: use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b
        | x.gguf | x.gguf` is GGUF
        | model.bin | model.bin` is OpenAI's format for Metal: use the SafeTensors checkpoint that it was made from
        | tiny-hf/config.json training_args.bin optimizer.pt scheduler.pt rng_state_0.pth | holds no model.safetensors
        | tiny-hf/config.json training_args.bin optimizer.pt scheduler.pt rng_state_0.pth pytorch_model.bin | pytorch_model.bin` is PyTorch's format";
    for [name, files, sentence] in cases(table) {
        let home = Home::new();
        create(&home, files);
        let model = home.join("m.onnx");
        let sentence = sentence.replace("HOME", text(&home));
        assert_contains(&failure(&export_args(&home.join(name), &model, &[])), &sentence);
        assert!(!model.exists());
    }
}

#[test]
fn names_saves_that_are_no_checkpoints() {
    let table = "zero_to_fp32.py latest global_step10/ | global_step10` is DeepSpeed's format, in parts as each process saved them: run `python zero_to_fp32.py . OUTPUT` with its option safe_serialization in the folder of zero_to_fp32.py, add config.json to OUTPUT and export that
        tiny-hf/config.json global_step10/ pytorch_model.bin training_args.bin | global_step10` is DeepSpeed's format
        global_step_100/ | holds no config.json: add the files that the checkpoint lacks
        bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt | optim_states.pt` is DeepSpeed's format
        mp_rank_00_model_states.pt | model_states.pt` is DeepSpeed's format
        context/ weights/ | weights` is NeMo's or Megatron's format: convert it to Hugging Face's (llm.export_ckpt of NeMo and AutoBridge of Megatron-Bridge do) and export the result
        gpt-oss.nemo | gpt-oss.nemo` is NeMo's
        __0_0.distcp common.pt .metadata metadata.json | __0_0.distcp` is NeMo's or Megatron's
        __0_0.distcp .metadata | __0_0.distcp` is PyTorch's format of distributed checkpoints (DCP), in parts as each process saved them: run `accelerate merge-weights FOLDER OUTPUT` on the folder of the .distcp files, add config.json and export the result
        tiny-hf/config.json pytorch_model_fsdp_0/ optimizer_0/ scheduler.pt | pytorch_model_fsdp_0` is PyTorch's format of distributed
        consolidated.00.pth params.json | consolidated.00.pth` is PyTorch's format, with names that are not Hugging Face's: convert it to Hugging Face's names and SafeTensors with the program that wrote it
        tiny-hf/config.json consolidated.pth | consolidated.pth` is PyTorch's
        tiny-hf/config.json pytorch_model.bin.index.json | pytorch_model.bin.index.json` is an index of files in PyTorch's format: load it in transformers and save it as SafeTensors
        pytorch_model.bf16.bin.index.json | index.json` is an index of files in PyTorch's
        checkpoint-9/ checkpoint-x/ checkpoint-7 weights/ | holds no config.json
        tiny-hf/config.json model.safetensors.index.bf16.json | HOME` holds no model.safetensors.index.json, but one for each saved variant, `model.safetensors.index.bf16.json`: copy that of the variant to export to `model.safetensors.index.json`
        tiny-hf/config.json model.safetensors.index.bf16.json model.safetensors.index.fp16.json model.bf16-00001-of-00002.safetensors model.bf16-00002-of-00002.safetensors | variant, `model.safetensors.index.bf16.json`, `model.safetensors.index.fp16.json`: copy
        model.safetensors.index.fp16.json | holds no config.json";
    for [files, sentence] in cases(table) {
        let home = Home::new();
        create(&home, files);
        let found = failure(&export_args(&home, &home.join("m.onnx"), &[]));
        assert_contains(&found, &sentence.replace("HOME", text(&home)));
        // Nothing is said about what cannot be told.
        let unknown = ": add the files that the checkpoint lacks, or choose another folder";
        assert!(!sentence.ends_with("config.json") || found.ends_with(unknown), "{found}");
    }
    // A variant beside a model is another choice.
    let home = Home::with("tiny");
    create(&home.checkpoint(), "model.safetensors.index.bf16.json");
    home.export("m", &[]);
}

#[test]
fn names_what_came_in_the_place_of_a_file() {
    let utf16: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let table: [(&[u8], &str); 9] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer, not the file itself: run `git lfs pull` in its clone, or download it again from the hub",
        ),
        (b"<!doctype html>\n<html>", "an HTML page, not the file itself: download it again"),
        (
            b"<?xml version=\"1.0\"?><Error/>",
            "an XML or PDF document, not the file itself: download it again",
        ),
        (
            b"Entry not found",
            "a text that begins \"Entry not found\", not the file itself: download it again",
        ),
        (
            b"Access denied",
            "a text that begins \"Access denied\", not the file itself: download it again",
        ),
        (
            b"Repository not found\n",
            "a text that begins \"Repository not found\", not the file itself: download it again",
        ),
        (
            b"{\"error\":\"Not found\"}",
            r#"a text that begins "{\"error\":\"Not found\"}", not the file itself: download it again"#,
        ),
        (
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\x56",
            "an archive or a compressed file: unpack it, and use the files that are in it",
        ),
        (&utf16, "text in UTF-16, expected UTF-8: save it in UTF-8"),
    ];
    for name in ["config.json", "model.safetensors.index.json", "model.safetensors"] {
        for (bytes, what) in table {
            let home = Home::with("tiny");
            let file = home.checkpoint().join(name);
            fs::write(&file, bytes).unwrap();
            assert_eq!(home.refusal("m", &[]), format!("`{}` is {what}", file.display()));
        }
    }
    // A gzip of which the first bytes are the length of a header that would fit.
    let home = Home::with("tiny");
    let file = home.checkpoint().join("model.safetensors");
    fs::write(&file, [table[7].0, &vec![0xab; 600_000]].concat()).unwrap();
    assert_contains(&home.refusal("m", &[]), "is an archive or a compressed file");
}

#[test]
fn ignores_unknown_names_on_request() {
    let home = edited(|folder| {
        edit_config(
            folder,
            "\"sliding_window\": 8",
            "\"sliding_window\": 8, \"note a\": 1, \"note b\": 2",
        );
        edit_tensors(folder, |tensors| {
            let extra = tensors["norm.scale"].clone();
            let extra = |name: &str| (name.to_owned(), extra.clone());
            tensors.extend(["extra.a bias", "extra.weight"].map(extra));
        });
    });
    let (checkpoint, model) = (home.checkpoint(), home.join("model.onnx"));
    let sentence = failure(&export_args(&checkpoint, &model, &[]));
    let keys = "--ignore-config-key 'note a' --ignore-config-key 'note b'";
    assert_contains(&sentence, &format!("what the model computes; pass {keys}\nerror: `"));
    assert_ends(&sentence, &format!("can be passed together: {keys} --ignore-tensor 'extra.*'"));
    let note = ["--ignore-config-key", "note*"];
    let one = ["--ignore-tensor", "extra.a bias"];
    let export = export_args(&checkpoint, &model, &note);
    let sentence = failure(&export);
    assert_contains(&sentence, "OpenAI's original layout: `extra.a bias`, `extra.weight`;");
    assert_ends(&sentence, "; pass --ignore-tensor 'extra.*'");
    let sentence = failure(&[&export[..], &one].concat());
    assert_contains(&sentence, "OpenAI's original layout: `extra.weight`;");
    let both = [&one[..], &["--ignore-tensor", "extra.weight"]].concat();
    for all in [&both[..], &["--ignore-tensor", "extra.*"]] {
        for command in [&export[..], &["inspect", text(&checkpoint), note[0], note[1]]] {
            printed(&mut binary(&[command, all].concat()));
        }
    }
}

#[test]
fn refuses_damaged_and_foreign_weights_files() {
    let home = Home::with("tiny");
    let [folder, model, gguf, blob] =
        ["", "m.onnx", "x.gguf", "sha256-e7b273f9"].map(|name| home.join(name));
    for path in [&gguf, &blob] {
        fs::write(path, b"GGUF\x03\0\0\0\0\0\0\0").unwrap();
    }
    let [damaged, short] = ["damaged", "short"].map(|name| home.stage(name, &[]).0);
    flip_last_bit(&damaged);
    resize(&short, |length| length - 1);
    for (path, expected) in [
        (&folder, "is a folder, and a staged weights file is expected"),
        (&folder.join("absent"), "there is no file `"),
        (&gguf, "x.gguf` is GGUF, llama.cpp's format: use the SafeTensors"),
        (&blob, "sha256-e7b273f9` is Ollama's store of models, in GGUF: use the SafeTensors"),
        (
            &fixture("tiny/model.safetensors"),
            "is not a weights file of gpt-oss-export; to use a checkpoint, give its folder",
        ),
        (&damaged, "was changed after it was staged"),
        (&short, "stage it, or export it, again"),
    ] {
        assert_contains(&failure(&staged_args(path, &model, &[])), expected);
        assert!(!model.exists());
    }
    // Nor are they, under names of their own, reused as the file that another run would write.
    for path in [&damaged, &short] {
        let sentence = failure(&stage_args(&home.checkpoint(), path, &[]));
        assert_contains(&sentence, "exists and differs from the file to write");
    }
}

#[test]
fn suggests_similar_and_enclosing_folders() {
    let home = Home::new();
    let home = dunce::canonicalize(&*home).unwrap();
    let checkpoint = home.join("gpt-oss-20b");
    copy_folder(&fixture("tiny"), &checkpoint);
    fs::create_dir(checkpoint.join("onnx")).unwrap();
    fs::create_dir(home.join("gpt-oss-20")).unwrap();
    let table = "gpt-oss-20b/onnx | holds no config.json; `MEANT` above it holds a checkpoint
        gpt-oss-20b/model.safetensors | is a file (did you mean `MEANT`?)
        gpt-oss-20b/config.json | is a file (did you mean `MEANT`?)
        gpt_oss_20b | (did you mean `MEANT`?); a checkpoint is a folder
        GPT-OSS-20B-it | (did you mean `MEANT`?); a checkpoint is a folder
        llama | there is no folder `GIVEN`; a checkpoint
        gpt-oss-20 | holds no config.json: it is empty";
    for [name, expected] in cases(table) {
        let given = home.join(name);
        let expected = expected.replace("MEANT", text(&checkpoint)).replace("GIVEN", text(&given));
        assert_contains(&failure(&export_args(&given, &home.join("m.onnx"), &[])), &expected);
    }
}

#[test]
fn suggests_original_folder_of_released_repository() {
    let home = Home::new();
    let (original, model) = (home.join("original"), home.join("m.onnx"));
    copy_folder(&fixture("tiny"), &original);
    for lacking in ["config.json", "model.safetensors"] {
        let sentence = failure(&export_args(&home, &model, &[]));
        assert_contains(&sentence, &format!("holds no {lacking}; `"));
        assert_contains(&sentence, "original` holds a checkpoint with the weights as released");
        create(&home, "tiny-hf/config.json");
    }
    export(&export_args(&original, &model, &[]));
}

#[test]
fn refuses_mxfp4_for_rows_that_fill_no_blocks() {
    let (config, tensors) = narrow();
    let expected = "`layers.0.mlp.experts.down` has rows of 120 elements, and conversions to mxfp4 need a multiple of 32: keep the format of the experts";
    let home = home(&config, &tensors);
    assert_eq!(home.refusal("m", &["--experts", "mxfp4"]), expected);
    assert_ends(&home.refusal("m", &["--for=cuda"]), "to others; pass --target onnx");
    home.export("m", &["--for=cuda", "--target=onnx"]);
}

#[test]
fn refuses_mixed_experts_on_gpus() {
    let home = in_folder("mixed");
    let cuda = "execution provider `cuda` does not support experts in bf16 and mxfp4: its kernels read one format; pass --experts nvfp4 or --experts int4";
    assert_eq!(home.refusal("m", &["--for=cuda"]), cuda);
    home.export("m", &["--for=cuda", "--experts", "nvfp4"]);
    let webgpu = ["--target=ort", "--ep=webgpu"];
    let formats = ["nvfp4 or --experts int4", "int4 or --experts int8"];
    let expected = cuda.replace("cuda", "webgpu").replace(formats[0], formats[1]);
    assert_eq!(home.refusal("m", &webgpu), expected);
    home.export("m", &[&webgpu[..], &["--experts=int8", "--accept-rounding"]].concat());
}

#[test]
fn refuses_more_experts_than_webgpu_has_threads_for() {
    let mut tensors = in_layout("hf");
    for (name, (_, shape, data)) in &mut tensors {
        if name.contains("layers.1.mlp.experts.") || name.contains("layers.1.mlp.router.") {
            shape[0] *= 33;
            *data = data.repeat(33);
        }
    }
    let home = home(&config(), &tensors);
    let expected = "execution provider `webgpu` does not support 264 experts in a layer: its QMoE takes at most 256; pass --target onnx";
    assert_eq!(home.refusal("m", &["--for=webgpu"]), expected);
    home.export("m", &["--for=webgpu", "--target=onnx"]);
}

#[test]
fn refuses_configs_that_contradict_tensors() {
    let table = r#"bf16 | num_local_experts | 7 | 18 tensors, such as `model.layers.0.mlp.router.weight`, must have the number of experts 7 (from `
        hf | quantization_config | {"quant_method": "gptq"} | weights quantized with "gptq" cannot be read, only MXFP4 as released: use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b"#;
    for [layout, key, value, sentence] in cases(table) {
        let mut config = config();
        config[key] = value.parse().unwrap();
        assert_contains(&home(&config, &in_layout(layout)).refusal("m", &[]), sentence);
    }
}

/// Merging and dequantizing often leave the key, which says nothing of the tensors then.
#[test]
fn a_method_of_other_weights_can_be_ignored() {
    for method in ["bitsandbytes", "fp8", "awq", "torchao", "none"] {
        let mut config = config();
        config["quantization_config"] = json!({"quant_method": method, "bits": 4});
        let home = home(&config, &in_layout("bf16"));
        let sentence = home.refusal("m", &[]);
        let end = "; if they were merged or dequantized since, the key can be ignored; pass --ignore-config-key quantization_config.quant_method";
        assert!(sentence.ends_with(end), "{sentence}");
        home.export("m", &["--ignore-config-key", "quantization_config.quant_method"]);
    }
}

type Edit = fn(&mut Tensors, &mut Value);

#[test]
fn refuses_tensors_that_fit_no_layout() {
    let edits: [(&str, Edit, &str); 9] = [
        (
            "hf",
            |tensors, _| tensors.retain(|name, _| !name.contains("_blocks")),
            "lacks tensors `model.layers.0.mlp.experts.gate_up_proj_blocks`, `model.layers.0.mlp.experts.down_proj_blocks`, ",
        ),
        (
            "bf16",
            |tensors, _| {
                let (dtype, _, data) =
                    tensors.get_mut("model.layers.1.mlp.experts.down_proj").unwrap();
                *dtype = Dtype::F8_E4M3;
                data.truncate(data.len() / 2);
            },
            "must be bf16, f16, f32 or f8e5m2, found f8e4m3: export",
        ),
        (
            "split",
            |tensors, _| {
                let name = "model.layers.1.mlp.experts.down_projs.3.weight";
                tensors.get_mut(name).unwrap().0 = Dtype::F16;
            },
            "down_projs.3.weight` must be bf16 as those of the other experts, found f16",
        ),
        (
            "linears",
            |tensors, _| drop(tensors.remove("model.layers.2.mlp.experts.7.up_proj.weight")),
            "lacks tensor `model.layers.2.mlp.experts.7.up_proj.weight`",
        ),
        (
            "hf",
            |tensors, _| drop_experts(tensors, 1, 5, false),
            "tensors disagree about the number of experts, so no config.json fits them: 6 tensors, such as `model.layers.1.mlp.experts.gate_up_proj_blocks`, have 5, 18 tensors, such as `model.layers.0.mlp.router.weight`, have 8; give all of them one size and save the model again",
        ),
        (
            "hf",
            |tensors, _| drop_experts(tensors, 1, 3, true),
            "`model.layers.1.mlp.router.weight` has 3 rows, one for each expert, and `",
        ),
        // Where layers differ, their routers say how many experts there are.
        (
            "hf",
            |tensors, _| {
                drop_experts(tensors, 1, 5, true);
                drop_experts(tensors, 2, 6, false);
            },
            "`model.layers.2.mlp.experts.gate_up_proj_blocks` must have shape [8, 256, 3, 16] (from the rows of `model.layers.2.mlp.router.weight`), found [6, 256, 3, 16]",
        ),
        (
            "hf",
            |tensors, _| {
                drop_experts(tensors, 1, 5, true);
                let bias = tensors["model.layers.0.mlp.router.bias"].clone();
                tensors.insert("model.layers.1.mlp.router.bias".to_owned(), bias);
            },
            "`model.layers.1.mlp.router.bias` must have shape [5] (from the rows of `model.layers.1.mlp.router.weight`), found [8]",
        ),
        // The config still says the other sizes.
        (
            "hf",
            |tensors, config| {
                drop_experts(tensors, 1, 5, true);
                config["intermediate_size"] = json!(96);
            },
            "15 tensors, such as `model.layers.0.mlp.experts.gate_up_proj_blocks`, must have `intermediate_size` 96 (from `",
        ),
    ];
    for (layout, edit, sentence) in edits {
        let (mut tensors, mut config) = (in_layout(layout), config());
        edit(&mut tensors, &mut config);
        assert_contains(&home(&config, &tensors).refusal("m", &[]), sentence);
    }
}
