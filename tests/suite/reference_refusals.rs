//! Checkpoints that the reference cannot read. The exporter's reader refuses them before.

use std::fs;
use std::path::Path;

use gpt_oss_export::reference::{self, ReadOptions};
use serde_json::json;

use crate::layout_fixtures::{Tensors, config, edit_tensors, edited, home, in_layout};
use crate::support::{Home, assert_contains, fixture};

type Edit = fn(&mut Tensors);

pub fn refusal(source: &Path) -> String {
    reference::read(source, &ReadOptions::default()).unwrap_err().to_string()
}

/// An edit of the config in `tiny-hf`, and what the sentence contains.
#[test]
fn refuses_configs_that_it_cannot_read() {
    for (edit, sentence) in [
        (json!({"hidden_size": null}), "lacks the key `hidden_size`, which the reference needs"),
        (json!({"attention_bias": null}), "does not know what null under `attention_bias` means"),
        (json!({"rms_norm_eps": null}), "does not know what null under `rms_norm_eps` means"),
        (json!({"swiglu_limit": null}), "does not know what null under `swiglu_limit` means"),
        (json!({"hidden_size": -1}), "does not know what -1 under `hidden_size` means"),
        (json!({"num_key_value_heads": 0}), "what 0 under `num_key_value_heads` means"),
        (json!({"vocab_size": 1u64 << 60}), "what 1152921504606846976 under `vocab_size` means"),
        (json!({"num_key_value_heads": 3}), "8 heads of 32 dimensions cannot share 3 of keys"),
        (json!({"head_dim": 31}), "8 heads of 31 dimensions cannot"),
        (
            json!({"layer_types": ["sliding_attention", "linear_attention"]}),
            "\"linear_attention\" under `layer_types`",
        ),
        (json!({"sliding_window": null}), "\"sliding_attention\" under `layer_types`"),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 2}}),
            "\"linear\" under `rope_scaling.rope_type`",
        ),
        (
            json!({"rope_scaling": null}),
            "lacks the key `rope_scaling.factor` or `rope_parameters.factor`",
        ),
        (json!({"rope_theta": null}), "lacks the key `rope_theta` or"),
        (
            json!({"rope_parameters": {"factor": 16}}),
            "keys `rope_scaling.factor` and `rope_parameters.factor` mean",
        ),
        (
            json!({"num_experts_per_tok": 9, "experts_per_token": 9}),
            "layer 0 has 8 experts, and 9 are chosen",
        ),
        (
            json!({"num_hidden_layers": 4, "layer_types": null}),
            "no tensor that the reference could read as `layers.3.mlp.router.weight`",
        ),
        (
            json!({"hidden_size": 64}),
            "`embedding.weight` has shape [320, 96] in 61440 bytes, expected [320, 64] in f32, bf16, f16, f8e5m2",
        ),
        (
            json!({"block_configs": [{"num_local_experts": 8}]}),
            "{\"num_local_experts\":8} under `block_configs`",
        ),
    ] {
        let mut config = config();
        config.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        let home = home(&config, &in_layout("hf"));
        assert_contains(&refusal(&home.checkpoint()), sentence);
    }
}

/// A SafeTensors file with this header.
fn with_header(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 64]].concat()
}

#[test]
fn refuses_damaged_files_in_a_sentence() {
    let tensor = |entry: &str| {
        with_header(&format!("{{\"norm.scale\":{entry},\"embedding.weight\":{entry}}}"))
    };
    let table: [(Vec<u8>, &str); 12] = [
        (vec![], "has 0 bytes: it is damaged"),
        (vec![1, 2, 3], "has 3 bytes: it is damaged"),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "has 8 bytes and announces a header of 18446744073709551615",
        ),
        ([&[0xff; 7][..], &[0; 100]].concat(), "announces a header of 72057594037927935"),
        (with_header("{"), "is not valid JSON"),
        (with_header("[]"), "is invalid"),
        (with_header(&"[".repeat(100_000)), "is not valid JSON"),
        (
            with_header(
                r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#,
            ),
            "duplicate key",
        ),
        (
            tensor(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,65]}"#),
            "tensor `embedding.weight` is at 0..65 of 64 bytes",
        ),
        (tensor(r#"{"dtype":"F32","shape":[4],"data_offsets":[9,8]}"#), "is at 9..8 of 64 bytes"),
        (tensor(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#), "is invalid"),
        (
            tensor(r#"{"dtype":"BF16","shape":[320,96],"data_offsets":[0,64]}"#),
            "has shape [320, 96] in 64 bytes",
        ),
    ];
    let home = Home::with("tiny");
    for (bytes, sentence) in table {
        fs::write(home.join("checkpoint/model.safetensors"), bytes).unwrap();
        assert_contains(&refusal(&home.checkpoint()), sentence);
    }
    fs::remove_file(home.join("checkpoint/model.safetensors")).unwrap();
    fs::create_dir(home.join("checkpoint/model.safetensors")).unwrap();
    assert_contains(&refusal(&home.checkpoint()), "is not a regular file");
    assert_contains(&refusal(&fixture("tiny/model.safetensors")), "is not a staged weights file");
}

/// Each change of a tensor in `tiny` is refused by what it holds.
#[test]
fn refuses_tensors_of_other_shapes() {
    let table: [(&str, Edit, &str); 6] = [
        (
            "block.1.attn.sinks",
            |it| it.get_mut("block.1.attn.sinks").unwrap().1 = vec![2, 4],
            "`layers.1.attn.sinks` has shape [2, 4]",
        ),
        (
            "qkv",
            |it| _ = it.remove("block.0.attn.qkv.weight"),
            "could read as `layers.0.attn.q.weight`",
        ),
        (
            "scales",
            |it| _ = it.remove("block.2.mlp.mlp2_weight.scales"),
            "could read as `layers.2.mlp.experts.down.scales`",
        ),
        ("embedding", |it| _ = it.remove("embedding.weight"), "could read as `embedding.weight`"),
        (
            "blocks",
            |it| it.get_mut("block.0.mlp.mlp1_weight.blocks").unwrap().1 = vec![8, 256, 48],
            "has shape [8, 256, 48]",
        ),
        (
            "router",
            |it| it.get_mut("block.0.mlp.gate.weight").unwrap().1 = vec![96, 8],
            "has shape",
        ),
    ];
    for (case, edit, sentence) in table {
        let home = edited(|folder| edit_tensors(folder, edit));
        let found = refusal(&home.checkpoint());
        assert!(found.contains(sentence), "{case}: {found}");
    }
}
