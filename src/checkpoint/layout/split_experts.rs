//! unsloth's layout with a linear layer for each expert, gate and up in one.

use super::{Layout, MatrixForm, Origin, form, hugging_face};

/// `model.layers.N.mlp.experts.gate_up_projs.E.weight`, …
pub const LAYOUT: Layout = Layout {
    name: "unsloth's layout with split experts",
    sign: "model.layers.0.mlp.experts.down_projs.0.weight",
    form: form(true, MatrixForm::OutputMajor),
    origin,
};

fn origin(canonical: &str, experts: u64) -> Origin {
    if canonical.contains(".router.") {
        return hugging_face::origin(&canonical.replace(".router.", ".router.linear."), experts);
    }
    let Some((layer, rest)) = canonical.split_once(".experts.") else {
        return hugging_face::origin(canonical, experts);
    };
    let (matrix, part) = rest.split_once('.').expect("a canonical name");
    let tensor = |expert| format!("model.{layer}.experts.{matrix}_projs.{expert}.{part}");
    Origin::Stacked((0..experts).map(tensor).collect())
}
