//! OpenAI's own layout, the `original` folder of the released repositories.

use super::{Layout, MatrixForm, Origin, form};

/// `block.N.attn.qkv.weight`, `block.N.mlp.mlp1_weight.blocks`, …
pub const LAYOUT: Layout = Layout {
    name: "OpenAI's original layout",
    sign: "block.0.mlp.mlp2_weight.blocks",
    form: form(false, MatrixForm::Mxfp4),
    origin,
};

/// Parts of canonical names, and what this layout calls them.
const PARTS: [(&str, &str); 9] = [
    ("layers.", "block."),
    (".mlp.router.", ".mlp.gate."),
    (".mlp.experts.gate_up.blocks", ".mlp.mlp1_weight.blocks"),
    (".mlp.experts.gate_up.scales", ".mlp.mlp1_weight.scales"),
    (".mlp.experts.gate_up.bias", ".mlp.mlp1_bias"),
    (".mlp.experts.down.blocks", ".mlp.mlp2_weight.blocks"),
    (".mlp.experts.down.scales", ".mlp.mlp2_weight.scales"),
    (".mlp.experts.down.bias", ".mlp.mlp2_bias"),
    ("lm_head.", "unembedding."),
];

fn origin(canonical: &str, _experts: u64) -> Origin {
    Origin::renamed(canonical, &PARTS)
}
