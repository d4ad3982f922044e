//! The layout with three linear layers for each expert: gate, up and down.

use super::{Layout, PLAIN, Sources, hugging_face, storage};

/// `model.layers.N.mlp.experts.E.gate_proj.weight`, …
pub const LAYOUT: Layout = Layout {
    name: "the layout with gate, up and down apart",
    marker_tensor: "model.layers.0.mlp.experts.0.down_proj.weight",
    storage: storage(true, PLAIN),
    sources,
};

fn sources(canonical: &str, experts: u64) -> Sources {
    let Some((layer, rest)) = canonical.split_once(".experts.") else {
        return hugging_face::sources(canonical, experts);
    };
    let (matrix, part) = rest.split_once('.').expect("a canonical name");
    let tensor = |expert, name| format!("model.{layer}.experts.{expert}.{name}_proj.{part}");
    match matrix {
        // Even rows gate, odd rows up.
        "gate_up" => Sources::InterleaveRows(
            (0..experts).map(|expert| ["gate", "up"].map(|name| tensor(expert, name))).collect(),
        ),
        _ => Sources::Concat((0..experts).map(|expert| tensor(expert, matrix)).collect()),
    }
}
