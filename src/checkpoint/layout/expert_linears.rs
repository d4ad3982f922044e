//! The layout with three linear layers for each expert: gate, up and down.

use super::{Layout, MatrixForm, Origin, form, hugging_face};

/// `model.layers.N.mlp.experts.E.gate_proj.weight`, …
pub const LAYOUT: Layout = Layout {
    name: "the layout with gate, up and down apart",
    sign: "model.layers.0.mlp.experts.0.down_proj.weight",
    form: form(true, MatrixForm::OutputMajor),
    origin,
};

fn origin(canonical: &str, experts: u64) -> Origin {
    let Some((layer, rest)) = canonical.split_once(".experts.") else {
        return hugging_face::origin(canonical, experts);
    };
    let (matrix, part) = rest.split_once('.').expect("a canonical name");
    let tensor = |expert, name| format!("model.{layer}.experts.{expert}.{name}_proj.{part}");
    match matrix {
        // Even rows gate, odd rows up.
        "gate_up" => Origin::Interleaved(
            (0..experts).map(|expert| ["gate", "up"].map(|name| tensor(expert, name))).collect(),
        ),
        _ => Origin::Stacked((0..experts).map(|expert| tensor(expert, matrix)).collect()),
    }
}
