//! A weights file that an export has written: canonical names, in whichever
//! form the checkpoint had.

use super::{ExpertForm, Form, Layout, Origin};
use crate::checkpoint::files::Tensors;

/// The layout of such a file.
pub fn staged(tensors: &Tensors) -> Layout {
    let experts = if tensors.has("layers.0.mlp.experts.down.weight_t") {
        ExpertForm::InputMajor
    } else if tensors.has("layers.0.mlp.experts.down.weight") {
        ExpertForm::OutputMajor
    } else {
        ExpertForm::Mxfp4
    };
    let separate_qkv = tensors.has("layers.0.attn.q.weight");
    Layout {
        name: "a weights file of gpt-oss-export",
        sign: "embedding.weight",
        form: Form { separate_qkv, experts },
        origin: |canonical, _| Origin::Tensor(canonical.to_owned()),
    }
}
