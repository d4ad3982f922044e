//! What `--json` prints, against `docs/summary.schema.json`.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::environment::{onnxruntime, python};
use super::faults::{tie, with_tensors};
use crate::fake_hub::{HubTest, REPOSITORY};
use crate::inspect::{data_file, inspect};
use crate::layout_fixtures::{self, LAYOUTS, edit_file, in_folder};
use crate::puzzle::puzzle;
use crate::support::{Home, binary, copy_folder, edit_json, export_args, fixture, root, words};

const COMMANDS: &str = "
    --checkpoint packaged --output packaged/g.onnx --genai --kv-cache
    --checkpoint packaged --output web/onnx/model_q4f16.onnx --for transformers-js
    --checkpoint tiny-hf --output web/onnx/model_q4f16.onnx --for transformers-js
    --checkpoint tiny-hf --output web/g.onnx --genai --kv-cache
    --checkpoint tiny-hf --output bare/onnx/model_q4f16.onnx --for transformers-js
    --checkpoint trained --output t.onnx --genai --kv-cache
    --checkpoint packaged --output talk/g.onnx --genai --kv-cache --adapter chat
    --checkpoint packaged --output talk/g.onnx --kv-cache
    --checkpoint packaged --output js/onnx/model_q4f16.onnx --for transformers-js --adapter chat --adapter-as merge
    --checkpoint tiny --output u.onnx --functions
    --checkpoint tiny --output s.onnx --stages 2 --kv-cache --sliding-cache window
    --checkpoint tiny --output l.onnx --for onnxruntime --layers 1
    --checkpoint tiny --output p.onnx --layers 1..3
    --checkpoint tiny --output c/c.onnx --external-data copy
    --checkpoint tiny --output c/c.onnx --experts int4
    --checkpoint ahead --output ahead.onnx
    --checkpoint tiny-hf --save-weights w.safetensors --skip-onnx --experts int8
    --weights w.safetensors --output w.onnx
    --checkpoint tiny-hf --output a.onnx --target ort --adapter experts --adapter attention=0.5
    --checkpoint tiny-hf --save-weights m.safetensors --skip-onnx --adapter attention --adapter-as merge
    --weights m.safetensors --output m.onnx
    --checkpoint tiny-hf --output sw.onnx --adapter-as swappable --adapter attention --verify
    --checkpoint tiny-hf --output st.onnx --adapter-as swappable --adapter attention --stages 2
    --checkpoint tiny-hf --output o.onnx --adapter odd --ignore-config-key mystery
    --checkpoint zeros --output z.onnx --ignore-config-key myst*
    adapter attention --for st.stage-1-of-2.onnx --output x.onnx_adapter
    adapter attention --for sw.onnx --output x.onnx_adapter
    adapter odd --for sw.onnx --output odd.onnx_adapter --ignore-config-key mystery
    verify m.onnx --checkpoint tiny-hf --adapter attention --tokens 8
    verify a.onnx --checkpoint tiny-hf --adapter experts --adapter attention=0.5 --tokens 8 --trace
    verify s.stage-*-of-2.onnx --checkpoint tiny --tokens 8
    verify w.onnx --checkpoint tiny-hf --tokens 8 --tolerance 9
    verify w.onnx --checkpoint w.safetensors --tokens 8
    verify z.onnx --checkpoint zeros --ignore-config-key myst* --tokens 8
    verify ahead.onnx --checkpoint tied --tokens 20
    verify t.onnx --checkpoint trained --text text.txt --tokens 32
    evaluate --checkpoint trained --text text.txt --tokens 32 --formats mxfp4,int8 t.onnx
    generate t.onnx --ids 1,2 --max-new-tokens 2
    generate t.onnx --prompt hello --max-new-tokens 1
    generate w.onnx --ids 1 --max-new-tokens 2
    inspect tiny --scan --tensors *
    inspect trained
    inspect nan --scan
    inspect zeros --ignore-config-key myst*
    inspect zeros
    inspect w.safetensors
    inspect attention --scan --tensors *
    inspect router-head
    inspect square-down
    inspect odd
    inspect odd --ignore-config-key mystery
    inspect t.onnx --tensors *
    inspect o.onnx
    inspect p.onnx
    inspect s.stage-1-of-2.onnx
    inspect x.onnx_adapter --tensors *
    inspect tiny/model.safetensors --tensors *
    inspect nan/model.safetensors --scan
    inspect .";

/// After the checkpoint of one model has changed, and the metadata of another is gone.
const LATER: &str = "
    inspect c/c.onnx
    verify c/c.onnx --checkpoint tiny --tokens 8
    verify u.onnx --checkpoint tiny --tokens 8";

/// Each key of the schema is in some summary, and those that may be absent lack in some.
#[test]
fn schema_describes_summaries() {
    let home = home();
    let mut summaries = Vec::new();
    let mut run = |commands: &str| {
        for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let arguments = words(line);
            let mut command = binary(&arguments);
            command.arg("--json").current_dir(&*home).env("ORT_DYLIB_PATH", onnxruntime());
            let output = command.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            let summary: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| panic!("{line}: {error}"));
            let name = if line.starts_with("--") { "export" } else { arguments[0] };
            summaries.push(json!([name, summary]));
        }
    };
    run(COMMANDS);
    let data = data_file(&home.join("c/c.onnx"));
    edit_bytes(&data, |bytes| bytes.iter_mut().rev().take(1 << 17).for_each(|it| *it = 0x11));
    let key = b"gpt_oss_export";
    edit_bytes(&home.join("u.onnx"), |bytes| {
        let at = bytes.windows(key.len()).position(|it| it == key).unwrap();
        bytes[at] = b'x';
    });
    run(LATER);
    let mut add = |command: &str, summary| summaries.push(json!([command, summary]));
    for layout in LAYOUTS {
        let home = in_folder(layout);
        add("export", home.export("m", &[]).1);
        add("inspect", inspect(&home.checkpoint(), &[]));
    }
    let (mut config, tensors) = puzzle();
    config["max_position_embeddings"] = json!(1000);
    add("inspect", inspect(&layout_fixtures::home(&config, &tensors).checkpoint(), &[]));
    for options in [&[][..], &["--headers-only"]] {
        let test = HubTest::new();
        add("export", test.hub.export(&[&test.root()[..], options].concat()));
    }
    let served = Home::new();
    copy_folder(&fixture("lora/attention"), &served);
    let test = HubTest::serving(served);
    let options = ["--adapter", REPOSITORY];
    add("export", test.hub.export(&export_args(&fixture("tiny-hf"), &test.model, &options)));
    add("inspect", inspect(&test.model, &[]));

    let request =
        json!({"schema": root().join("docs/summary.schema.json"), "summaries": summaries});
    let found = python("schema.py", &[], &request);
    assert_eq!(found, json!({"wrong": [], "never": [], "always": [], "open": []}));
}

/// Checkpoints and adapters, of which some are damaged or odd.
fn home() -> Home {
    let home = Home::new();
    for name in ["tiny", "tiny-hf", "trained"] {
        copy_folder(&fixture(name), &home.join(name));
    }
    for name in ["experts", "attention", "router-head", "square-down"] {
        copy_folder(&fixture("lora").join(name), &home.join(name));
    }
    for (from, to) in [
        ("trained", "packaged"),
        ("tiny-hf", "packaged"),
        ("tiny-hf", "nan"),
        ("tiny-hf", "zeros"),
        ("attention", "odd"),
        ("attention", "chat"),
    ] {
        copy_folder(&home.join(from), &home.join(to));
    }
    let held_out = fs::read_to_string(home.join("trained/held-out.txt")).unwrap();
    fs::write(home.join("text.txt"), held_out.chars().take(600).collect::<String>()).unwrap();
    let tokens = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "top_k": -1});
    fs::write(home.join("packaged/generation_config.json"), tokens.to_string()).unwrap();
    fs::write(home.join("chat/chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    edit_json(&home.join("zeros/config.json"), |it| {
        (it["mystery"], it["mystic"]) = (json!(1), json!(2));
    });
    edit_json(&home.join("odd/adapter_config.json"), |it| it["mystery"] = json!(1));
    let q = "layers.1.self_attn.q_proj.weight";
    for (file, part, byte) in [
        ("zeros/model", q, 0),
        ("nan/model", q, 0),
        ("nan/model", "layers.0.self_attn.sinks", 0xff),
        ("odd/adapter_model", "lora_B", 0),
    ] {
        edit_file(&home.join(file).with_extension("safetensors"), |tensors| {
            let chosen = tensors.iter_mut().filter(|(name, _)| name.contains(part));
            chosen.for_each(|(_, (_, _, data))| data.fill(byte));
        });
    }
    edit_file(&home.join("router-head/adapter_model.safetensors"), |tensors| {
        tensors.insert("layers.1.self_attn.sinks".to_owned(), (Dtype::BF16, vec![8], vec![0; 16]));
    });
    for (name, last_two) in [("tied", 0), ("ahead", 1)] {
        with_tensors(&home, name, |tensors| tie(tensors, &[0, 1], last_two));
    }
    home
}

fn edit_bytes(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}
