//! unsloth's layout with a linear layer for each expert, gate and up in one.

use super::{Layout, PLAIN, Sources, hugging_face, storage};

/// `model.layers.N.mlp.experts.gate_up_projs.E.weight`, …
pub const LAYOUT: Layout = Layout {
    name: "unsloth's layout with split experts",
    marker_tensor: "model.layers.0.mlp.experts.down_projs.0.weight",
    storage: storage(true, PLAIN),
    sources,
};

fn sources(canonical: &str, experts: u64) -> Sources {
    if canonical.contains(".router.") {
        let Sources::Tensor(name) = hugging_face::sources(canonical, experts) else {
            unreachable!("a router is one tensor")
        };
        return Sources::Tensor(name.replace(".router.", ".router.linear."));
    }
    let Some((layer, rest)) = canonical.split_once(".experts.") else {
        return hugging_face::sources(canonical, experts);
    };
    let (matrix, part) = rest.split_once('.').expect("a canonical name");
    let tensor = |expert| format!("model.{layer}.experts.{matrix}_projs.{expert}.{part}");
    Sources::Concat((0..experts).map(tensor).collect())
}
