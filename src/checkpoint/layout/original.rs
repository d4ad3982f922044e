//! OpenAI's own layout, the `original` folder of the released repositories.

use super::Layout;

/// `block.N.attn.qkv.weight`, `block.N.mlp.mlp1_weight.blocks`, …
pub const ORIGINAL: Layout = Layout { name: "OpenAI's original layout", rename };

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

fn rename(canonical: &str) -> String {
    PARTS.iter().fold(canonical.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}
