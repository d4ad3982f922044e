//! Hugging Face's layout with MXFP4 experts, as in the roots of the released repositories.
//! Its blocks and scales are byte for byte those of OpenAI's layout.

use super::{Layout, MatrixFormat, Names, Sources, storage};

/// `model.layers.N.mlp.experts.gate_up_proj_blocks`, …
pub const LAYOUT: Layout = Layout {
    name: "Hugging Face's layout with MXFP4 experts",
    marker_tensor: "model.layers.0.mlp.experts.down_proj_blocks",
    storage: storage(true, MatrixFormat::Mxfp4),
    sources,
};

/// The names of every layout of Hugging Face, but for experts that are stored apart.
const NAMES: Names = Names {
    layer: "model.layers.",
    outside: &[
        ("embedding.weight", "model.embed_tokens.weight"),
        ("norm.scale", "model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
    inside: &[
        ("attn.norm.scale", "input_layernorm.weight"),
        ("attn.q.weight", "self_attn.q_proj.weight"),
        ("attn.q.bias", "self_attn.q_proj.bias"),
        ("attn.k.weight", "self_attn.k_proj.weight"),
        ("attn.k.bias", "self_attn.k_proj.bias"),
        ("attn.v.weight", "self_attn.v_proj.weight"),
        ("attn.v.bias", "self_attn.v_proj.bias"),
        ("attn.out.weight", "self_attn.o_proj.weight"),
        ("attn.out.bias", "self_attn.o_proj.bias"),
        ("attn.sinks", "self_attn.sinks"),
        ("mlp.norm.scale", "post_attention_layernorm.weight"),
        ("mlp.router.weight", "mlp.router.weight"),
        ("mlp.router.bias", "mlp.router.bias"),
        ("mlp.experts.gate_up.blocks", "mlp.experts.gate_up_proj_blocks"),
        ("mlp.experts.gate_up.scales", "mlp.experts.gate_up_proj_scales"),
        ("mlp.experts.gate_up.weight_t", "mlp.experts.gate_up_proj"),
        ("mlp.experts.gate_up.bias", "mlp.experts.gate_up_proj_bias"),
        ("mlp.experts.down.blocks", "mlp.experts.down_proj_blocks"),
        ("mlp.experts.down.scales", "mlp.experts.down_proj_scales"),
        ("mlp.experts.down.weight_t", "mlp.experts.down_proj"),
        ("mlp.experts.down.bias", "mlp.experts.down_proj_bias"),
    ],
};

pub fn sources(canonical: &str, _experts: u64) -> Sources {
    NAMES.source(canonical)
}
