//! OpenAI's own layout, the `original` folder of the released repositories.

use super::definition::{Layout, Names};
use super::hugging_face::MXFP4;

/// `block.N.attn.qkv.weight`, `block.N.mlp.mlp1_weight.blocks`, …
pub const LAYOUT: Layout = Layout {
    name: "OpenAI's original layout",
    separate_qkv: false,
    sources: |canonical, _| NAMES.source(canonical),
    ..MXFP4
};

const NAMES: Names = Names {
    layer: "block.",
    table: &[
        ("embedding", "embedding"),
        ("norm", "norm"),
        ("lm_head", "unembedding"),
        ("attn", "attn"),
        ("mlp.norm", "mlp.norm"),
        ("mlp.router", "mlp.gate"),
        ("mlp.experts.gate_up.bias", "mlp.mlp1_bias"),
        ("mlp.experts.gate_up", "mlp.mlp1_weight"),
        ("mlp.experts.down.bias", "mlp.mlp2_bias"),
        ("mlp.experts.down", "mlp.mlp2_weight"),
    ],
};
