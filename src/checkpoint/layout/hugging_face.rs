//! Hugging Face's layout with MXFP4 experts, as in the roots of the released
//! repositories. Its blocks and scales are byte for byte those of OpenAI's.

use super::{Layout, MatrixForm, Origin, form};

/// `model.layers.N.mlp.experts.gate_up_proj_blocks`, …
pub const LAYOUT: Layout = Layout {
    name: "Hugging Face's layout with MXFP4 experts",
    sign: "model.layers.0.mlp.experts.down_proj_blocks",
    form: form(true, MatrixForm::Mxfp4),
    origin,
};

/// Parts of canonical names, and what every layout of Hugging Face calls them.
const PARTS: [(&str, &str); 13] = [
    ("embedding.", "model.embed_tokens."),
    ("layers.", "model.layers."),
    (".attn.norm.scale", ".input_layernorm.weight"),
    (".attn.q.", ".self_attn.q_proj."),
    (".attn.k.", ".self_attn.k_proj."),
    (".attn.v.", ".self_attn.v_proj."),
    (".attn.out.", ".self_attn.o_proj."),
    (".attn.sinks", ".self_attn.sinks"),
    (".mlp.norm.scale", ".post_attention_layernorm.weight"),
    ("norm.scale", "model.norm.weight"),
    (".experts.gate_up.", ".experts.gate_up_proj_"),
    (".experts.down.", ".experts.down_proj_"),
    ("_weight_t", ""),
];

/// A weight that all of these layouts store as one tensor, or as it is here.
pub fn origin(canonical: &str, _experts: u64) -> Origin {
    Origin::renamed(canonical, &PARTS)
}
