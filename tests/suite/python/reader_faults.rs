//! Faults planted in the exporter's own reader of checkpoints. Exporter and byte comparison share
//! it and agree on the wrong model; `verify` finds each fault because its reference reads
//! checkpoints by itself.

use serde_json::{Value, json};

use super::faulty::{Fault, assert_found, faulty, verified};
use crate::layout_fixtures::{LAYOUTS, edit_tensors, in_folder, rows};
use crate::support::{Home, contents, edit_json, export_args, printed};

/// Faults, options of the export, and the layouts where the fault cannot occur.
pub const FAULTS: [(Fault, &[&str], &[&str]); 9] = [
    (
        Fault {
            name: "q and k exchanged",
            file: "checkpoint/layout/sources.rs",
            right: "let mut found = own.iter()",
            wrong: r#"
                let name = match name.split_at_checked(7) {
                    Some(("attn.q.", part)) if PLANTED => &format!("attn.k.{part}"),
                    Some(("attn.k.", part)) if PLANTED => &format!("attn.q.{part}"),
                    _ => name,
                };
                let mut found = own.iter()"#,
        },
        &[],
        // There they are rows of one matrix.
        FUSED,
    ),
    (
        Fault {
            name: "k and v exchanged",
            file: "checkpoint/layout/sources.rs",
            right: "let mut found = own.iter()",
            wrong: r#"
                let name = match name.split_at_checked(7) {
                    Some(("attn.k.", part)) if PLANTED => &format!("attn.v.{part}"),
                    Some(("attn.v.", part)) if PLANTED => &format!("attn.k.{part}"),
                    _ => name,
                };
                let mut found = own.iter()"#,
        },
        &[],
        FUSED,
    ),
    (
        Fault {
            name: "the norms of a layer exchanged",
            file: "checkpoint/layout/sources.rs",
            right: "let mut found = own.iter()",
            wrong: r#"
                let name = match name {
                    "attn.norm.scale" if PLANTED => "mlp.norm.scale",
                    "mlp.norm.scale" if PLANTED => "attn.norm.scale",
                    _ => name,
                };
                let mut found = own.iter()"#,
        },
        &[],
        &[],
    ),
    (
        Fault {
            name: "gate and up exchanged",
            file: "checkpoint/layout/sources.rs",
            right: "theirs.split(' ').map(stored).collect()",
            wrong: "{
                let mut templates: Vec<String> = theirs.split(' ').map(stored).collect();
                if PLANTED { templates.reverse(); }
                templates
            }",
        },
        &[],
        TOGETHER,
    ),
    (
        Fault {
            name: "gate and up not interleaved",
            file: "checkpoint/layout/assemble.rs",
            right: "let recipe = if sources.alternate() {",
            wrong: "let recipe = if sources.alternate() && PLANTED {
                Recipe::Concat(ranges)
            } else if sources.alternate() {",
        },
        &[],
        TOGETHER,
    ),
    (
        Fault {
            name: "windows a layer late",
            file: "checkpoint/config/mod.rs",
            right: "Ok(Self { config, dialect, ignored, unknown })",
            wrong: "
                let mut config = config;
                if PLANTED { config.windows.rotate_right(1); }
                Ok(Self { config, dialect, ignored, unknown })",
        },
        &[],
        &[],
    ),
    (
        Fault {
            name: "swiglu_limit ignored",
            file: "checkpoint/config/mod.rs",
            right: "Ok(Self { config, dialect, ignored, unknown })",
            wrong: "
                let mut config = config;
                if PLANTED { config.swiglu_limit = 7.0; }
                Ok(Self { config, dialect, ignored, unknown })",
        },
        &[],
        &[],
    ),
    (
        Fault {
            name: "YaRN's factor under another dialect's key",
            file: "checkpoint/config/mod.rs",
            right: "Ok(Self { config, dialect, ignored, unknown })",
            wrong: "
                let mut config = config;
                if PLANTED { config.rope.factor = 1.0; }
                Ok(Self { config, dialect, ignored, unknown })",
        },
        &[],
        &[],
    ),
    (
        Fault {
            name: "exponents of scales off by one",
            file: "tensor/mxfp4/block.rs",
            right: "exponent => f32::from_bits(u32::from(exponent) << 23)",
            wrong: "exponent => f32::from_bits(u32::from(exponent + u8::from(PLANTED)) << 23)",
        },
        &["--experts", "f32"],
        FLOATS,
    ),
];

/// Layouts with q, k and v in one matrix.
const FUSED: &[&str] = &["original", "numbers"];
/// Layouts with gate and up in one matrix.
const TOGETHER: &[&str] =
    &["original", "numbers", "hf", "bf16", "f16", "f32", "fp8", "split", "mixed"];
/// Layouts without MXFP4.
const FLOATS: &[&str] = &["numbers", "bf16", "f16", "f32", "fp8", "split", "linears", "mlx"];

/// Query heads.
const HEADS: usize = 8;
/// Query heads that share a key head.
const GROUP: usize = 4;
/// Width of a head.
const WIDTH: usize = 32;

/// A checkpoint in a layout, whose SwiGLU reaches its limit. Where q, k and v are apart they have
/// one shape: each query head has its own copy of the key and value heads that it shared.
fn checkpoint(layout: &str) -> Home {
    let home = if layout == "original" { Home::with("tiny") } else { in_folder(layout) };
    let is_apart = !FUSED.contains(&layout);
    edit_json(&home.join("checkpoint/config.json"), |config| {
        config["swiglu_limit"] = json!(0.5);
        if is_apart {
            config["num_key_value_heads"] = json!(HEADS);
        }
    });
    edit_tensors(&home.checkpoint(), |tensors| {
        let copied = (0..HEADS * WIDTH).map(|row| row / WIDTH / GROUP * WIDTH + row % WIDTH);
        let is_shared = |name: &str| name.contains(".k_proj.") || name.contains(".v_proj.");
        for (_, tensor) in tensors.iter_mut().filter(|(name, _)| is_shared(name)) {
            *tensor = rows(tensor, copied.clone());
        }
    });
    home
}

/// The report of `verify` by a binary with a fault, of a model that it exports. `None` if the
/// fault leaves the model as it is.
fn report(fault: &Fault, layout: &str, options: &[&str]) -> Option<Value> {
    let export = |planted: &str| {
        let home = checkpoint(layout);
        let (folder, model) = (home.checkpoint(), home.join("model.onnx"));
        printed(&mut faulty(planted, &export_args(&folder, &model, options)));
        let written = contents(&home).into_iter().map(|(_, bytes)| bytes);
        (written.collect::<Vec<_>>(), home)
    };
    let ((right, _), (wrong, home)) = (export(""), export(fault.name));
    if right == wrong {
        return None;
    }
    Some(verified(fault.name, &home, &[]))
}

#[test]
fn verify_finds_every_fault_in_every_layout() {
    for (fault, export, spared) in &FAULTS {
        let layouts = ["original"].into_iter().chain(LAYOUTS);
        let targets = [&["--kv-cache"][..], &["--target", "ort"]].into_iter().cycle();
        for (layout, options) in layouts.zip(targets) {
            let context = format!("{} in {layout}", fault.name);
            let found = report(fault, layout, &[export, options].concat());
            assert_eq!(found.is_none(), spared.contains(&layout), "{context}");
            let Some(found) = found else { continue };
            assert_found(&found, &context);
        }
    }
}
