//! Hugging Face's layout with the numbers of all experts in one tensor: fine-tunes
//! merged or dequantized to BF16, F16, F32 or FP8. Matrices are input-major,
//! `[experts, in, out]`, the other way round than everywhere else.

use super::{Layout, TRANSPOSED, hugging_face, storage};

/// `model.layers.N.mlp.experts.gate_up_proj` and `…_bias`
pub const LAYOUT: Layout = Layout {
    name: "Hugging Face's layout with dequantized experts",
    marker_tensor: "model.layers.0.mlp.experts.down_proj",
    storage: storage(true, TRANSPOSED),
    sources: hugging_face::sources,
};
