//! OpenAI's own layout, the `original` folder of the released repositories.

use super::{Layout, MatrixFormat, Names, storage};

/// `block.N.attn.qkv.weight`, `block.N.mlp.mlp1_weight.blocks`, …
pub const LAYOUT: Layout = Layout {
    name: "OpenAI's original layout",
    marker_tensor: "block.0.mlp.mlp2_weight.blocks",
    storage: storage(false, MatrixFormat::Mxfp4),
    sources: |canonical, _| NAMES.source(canonical),
};

const NAMES: Names = Names {
    layer: "block.",
    outside: &[
        ("embedding.weight", "embedding.weight"),
        ("norm.scale", "norm.scale"),
        ("lm_head.weight", "unembedding.weight"),
    ],
    inside: &[
        ("attn.norm.scale", "attn.norm.scale"),
        ("attn.qkv.weight", "attn.qkv.weight"),
        ("attn.qkv.bias", "attn.qkv.bias"),
        ("attn.out.weight", "attn.out.weight"),
        ("attn.out.bias", "attn.out.bias"),
        ("attn.sinks", "attn.sinks"),
        ("mlp.norm.scale", "mlp.norm.scale"),
        ("mlp.router.weight", "mlp.gate.weight"),
        ("mlp.router.bias", "mlp.gate.bias"),
        ("mlp.experts.gate_up.blocks", "mlp.mlp1_weight.blocks"),
        ("mlp.experts.gate_up.scales", "mlp.mlp1_weight.scales"),
        ("mlp.experts.gate_up.bias", "mlp.mlp1_bias"),
        ("mlp.experts.down.blocks", "mlp.mlp2_weight.blocks"),
        ("mlp.experts.down.scales", "mlp.mlp2_weight.scales"),
        ("mlp.experts.down.bias", "mlp.mlp2_bias"),
    ],
};
