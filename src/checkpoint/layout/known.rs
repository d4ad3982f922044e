//! The layouts of checkpoints: OpenAI's, and Hugging Face's, which differ in how experts are
//! stored.

use super::{Layout, Names, PLAIN, Sources, TRANSPOSED};
use crate::weights::MatrixFormat;

/// OpenAI's own, in the folder `original` of the released repositories:
/// `block.N.attn.qkv.weight`, `block.N.mlp.mlp1_weight.blocks`, …
pub const ORIGINAL: Layout = Layout {
    name: "OpenAI's original layout",
    separate_qkv: false,
    sources: |canonical, _| ORIGINAL_NAMES.source(canonical),
    ..MXFP4
};

/// Hugging Face's, in the roots of the released repositories. Blocks and scales are byte for
/// byte those of OpenAI's layout.
const MXFP4: Layout = Layout {
    name: "Hugging Face's layout with MXFP4 experts",
    separate_qkv: true,
    experts: MatrixFormat::Mxfp4,
    attention: PLAIN,
    lm_head: None,
    sources: |canonical, _| NAMES.source(canonical),
};

/// Hugging Face's layouts, each behind a tensor that only it has.
pub const LAYOUTS: [(&str, Layout); 4] = [
    ("model.layers.0.mlp.experts.down_proj_blocks", MXFP4),
    // Fine-tunes merged or dequantized to BF16, F16, F32 or FP8: the numbers of all experts in
    // one tensor, input-major `[experts, in, out]`, the other way round than everywhere else.
    (
        "model.layers.0.mlp.experts.down_proj",
        with_experts("Hugging Face's layout with dequantized experts", TRANSPOSED, MXFP4.sources),
    ),
    // A linear layer for each expert, gate and up in one:
    // `model.layers.N.mlp.experts.gate_up_projs.E.weight`, …
    (
        "model.layers.0.mlp.experts.down_projs.0.weight",
        with_experts("unsloth's layout with split experts", PLAIN, split_experts),
    ),
    // Three linear layers for each expert: `model.layers.N.mlp.experts.E.gate_proj.weight`, …
    (
        "model.layers.0.mlp.experts.0.down_proj.weight",
        with_experts("the layout with gate, up and down apart", PLAIN, expert_linears),
    ),
];

const fn with_experts(
    name: &'static str,
    experts: MatrixFormat,
    sources: fn(&str, u64) -> Sources,
) -> Layout {
    Layout { name, experts, sources, ..MXFP4 }
}

const ORIGINAL_NAMES: Names = Names {
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

const NAMES: Names = Names {
    layer: "model.layers.",
    table: &[
        ("embedding", "model.embed_tokens"),
        ("norm.scale", "model.norm.weight"),
        ("lm_head", "lm_head"),
        ("attn.norm.scale", "input_layernorm.weight"),
        ("attn.q", "self_attn.q_proj"),
        ("attn.k", "self_attn.k_proj"),
        ("attn.v", "self_attn.v_proj"),
        ("attn.out", "self_attn.o_proj"),
        ("attn.sinks", "self_attn.sinks"),
        ("mlp.norm.scale", "post_attention_layernorm.weight"),
        ("mlp.router", "mlp.router"),
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

fn split_experts(canonical: &str, experts: u64) -> Sources {
    let Some((layer, matrix, part)) = expert_part(canonical) else {
        return NAMES.source(&canonical.replace(".router.", ".router.linear."));
    };
    let tensor = |expert| format!("model.{layer}.experts.{matrix}_projs.{expert}.{part}");
    Sources::Concat((0..experts).map(tensor).collect())
}

fn expert_linears(canonical: &str, experts: u64) -> Sources {
    let Some((layer, matrix, part)) = expert_part(canonical) else {
        return NAMES.source(canonical);
    };
    let tensor = |expert, name| format!("model.{layer}.experts.{expert}.{name}_proj.{part}");
    if matrix == "gate_up" {
        // Even rows gate, odd rows up.
        let pair = |expert| ["gate", "up"].map(|name| tensor(expert, name));
        Sources::InterleaveRows((0..experts).map(pair).collect())
    } else {
        Sources::Concat((0..experts).map(|expert| tensor(expert, matrix)).collect())
    }
}

/// Splits `layers.N.mlp.experts.MATRIX.PART`.
fn expert_part(canonical: &str) -> Option<(&str, &str, &str)> {
    let (layer, rest) = canonical.split_once(".experts.")?;
    let (matrix, part) = rest.split_once('.')?;
    Some((layer, matrix, part))
}
