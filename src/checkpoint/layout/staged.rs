//! A weights file that an export has written: canonical names, in whichever
//! form the checkpoint had or was given.

use super::{Form, Layout, MatrixForm, Origin};
use crate::checkpoint::files::Tensors;
use crate::tensor::ints::Bits;

/// The layout of such a file.
pub fn staged(tensors: &Tensors) -> Layout {
    Layout {
        name: "a weights file of gpt-oss-export",
        sign: "embedding.weight",
        form: Form {
            separate_qkv: form(tensors, "layers.0.attn.q").is_some(),
            experts: form(tensors, "layers.0.mlp.experts.down").unwrap_or(MatrixForm::Mxfp4),
            attention: dense(tensors, "layers.0.attn.out").unwrap_or(MatrixForm::OutputMajor),
            logits: dense(tensors, "lm_head"),
        },
        origin: |canonical, _| Origin::Tensor(canonical.to_owned()),
    }
}

/// The same of dense layers, which have fewer forms: what is in another is lacking then.
fn dense(tensors: &Tensors, path: &str) -> Option<MatrixForm> {
    let form = form(tensors, path);
    form.filter(|form| matches!(form, MatrixForm::OutputMajor | MatrixForm::Ints(_)))
}

/// How the matrices of a path are stored, which the names of their tensors tell.
fn form(tensors: &Tensors, path: &str) -> Option<MatrixForm> {
    let part = |part: &str| format!("{path}.{part}");
    if tensors.has(&part("weight_t")) {
        return Some(MatrixForm::InputMajor);
    }
    if tensors.has(&part("weight")) {
        return Some(MatrixForm::OutputMajor);
    }
    if let Some(codes) = tensors.shape(&part("codes")) {
        return Bits::of_block(codes.last().copied().unwrap_or_default()).map(MatrixForm::Ints);
    }
    if tensors.has(&part("columns")) {
        return Some(MatrixForm::Mxfp4Columns);
    }
    tensors.has(&part("blocks")).then_some(MatrixForm::Mxfp4)
}
