//! Hugging Face's layout with the numbers of all experts in one tensor: fine-tunes
//! merged or dequantised to BF16, F16, F32 or FP8. Matrices are input-major,
//! `[experts, in, out]`, the other way round than everywhere else.

use super::{ExpertForm, Form, Layout, hugging_face};

/// `model.layers.N.mlp.experts.gate_up_proj` and `…_bias`
pub const LAYOUT: Layout = Layout {
    name: "Hugging Face's layout with dequantised experts",
    sign: "model.layers.0.mlp.experts.down_proj",
    form: Form { separate_qkv: true, experts: ExpertForm::InputMajor },
    origin: hugging_face::origin,
};
