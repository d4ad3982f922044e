//! The layouts of checkpoints: OpenAI's and Hugging Face's, with the forms that experts have in
//! them.

use super::{FLOATS, Form, Layout, PLAIN, TRANSPOSED};
use crate::checkpoint::config::Dialect;
use crate::weights::MatrixFormat;

impl Layout {
    pub const ALL: [Self; 2] = [ORIGINAL, HUGGING_FACE];

    /// The layout of the checkpoints whose configs have this dialect.
    pub fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => ORIGINAL,
            Dialect::HuggingFace => HUGGING_FACE,
        }
    }
}

/// OpenAI's own, in the folder `original` of the released repositories.
const ORIGINAL: Layout = Layout {
    name: "OpenAI's original layout",
    layer: "block.",
    names: &[
        ("embedding", "embedding"),
        ("norm", "norm"),
        ("lm_head", "unembedding"),
        ("attn", "attn"),
        ("mlp.norm", "mlp.norm"),
        ("mlp.router", "mlp.gate"),
        ("mlp.experts.gate_up.bias", "mlp.mlp1_bias"),
        ("mlp.experts.down.bias", "mlp.mlp2_bias"),
    ],
    separate_qkv: false,
    unties: false,
    dense: &[FLOATS],
    experts: &[
        // As released.
        Form {
            name: "",
            format: MatrixFormat::Mxfp4,
            names: &[
                ("mlp.experts.gate_up.blocks", "mlp.mlp1_weight.blocks"),
                ("mlp.experts.gate_up.scales", "mlp.mlp1_weight.scales"),
                ("mlp.experts.down.blocks", "mlp.mlp2_weight.blocks"),
                ("mlp.experts.down.scales", "mlp.mlp2_weight.scales"),
            ],
        },
        // As OpenAI's implementation in PyTorch saves them.
        Form {
            name: "dequantized experts",
            format: PLAIN,
            names: &[
                ("mlp.experts.gate_up.weight", "mlp.mlp1_weight"),
                ("mlp.experts.down.weight", "mlp.mlp2_weight"),
            ],
        },
    ],
};

const HUGGING_FACE: Layout = Layout {
    name: "Hugging Face's layout",
    layer: "model.layers.",
    names: &[
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
        // unsloth's.
        ("mlp.router", "mlp.router.linear"),
        ("mlp.experts.gate_up.bias", "mlp.experts.gate_up_proj_bias"),
        ("mlp.experts.down.bias", "mlp.experts.down_proj_bias"),
    ],
    separate_qkv: true,
    unties: false,
    dense: &[FLOATS],
    experts: &[
        // As released: byte for byte the blocks and scales of OpenAI's layout.
        Form {
            name: "MXFP4 experts",
            format: MatrixFormat::Mxfp4,
            names: &[
                ("mlp.experts.gate_up.blocks", "mlp.experts.gate_up_proj_blocks"),
                ("mlp.experts.gate_up.scales", "mlp.experts.gate_up_proj_scales"),
                ("mlp.experts.down.blocks", "mlp.experts.down_proj_blocks"),
                ("mlp.experts.down.scales", "mlp.experts.down_proj_scales"),
            ],
        },
        // Fine-tunes merged or dequantized to BF16, F16, F32 or FP8: input-major, the other way
        // round than everywhere else.
        Form {
            name: "dequantized experts",
            format: TRANSPOSED,
            names: &[
                ("mlp.experts.gate_up.weight_t", "mlp.experts.gate_up_proj"),
                ("mlp.experts.down.weight_t", "mlp.experts.down_proj"),
            ],
        },
        // unsloth's: a linear layer for each expert, gate and up in one.
        Form {
            name: "split experts",
            format: PLAIN,
            names: &[
                ("mlp.experts.gate_up", "mlp.experts.gate_up_projs.E"),
                ("mlp.experts.down", "mlp.experts.down_projs.E"),
            ],
        },
        // Three linear layers for each expert.
        Form {
            name: "split experts, gate and up apart",
            format: PLAIN,
            names: &[
                ("mlp.experts.gate_up", "mlp.experts.E.gate_proj mlp.experts.E.up_proj"),
                ("mlp.experts.down", "mlp.experts.E.down_proj"),
            ],
        },
        // MLX's, dequantized.
        Form {
            name: "dequantized experts, gate and up apart",
            format: PLAIN,
            names: &[
                ("mlp.experts.gate_up", "mlp.experts.gate_proj mlp.experts.up_proj"),
                ("mlp.experts.down", "mlp.experts.down_proj"),
            ],
        },
    ],
};
