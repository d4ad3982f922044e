//! A staged weights file: canonical names, in whatever formats the checkpoint had or was
//! given.

use super::definition::{Layout, PLAIN, Sources, Storage, TRANSPOSED};
use crate::checkpoint::shards::Tensors;
use crate::tensor::ints::Bits;
use crate::weights::MatrixFormat;

pub fn staged(tensors: &Tensors) -> Layout {
    // Dense matrices have fewer formats: in others they count as missing.
    let dense = |path| {
        format(tensors, path)
            .filter(|it| matches!(it, MatrixFormat::Float(_) | MatrixFormat::Int(_)))
    };
    Layout {
        name: "a weights file of gpt-oss-export",
        marker_tensor: "embedding.weight",
        storage: Storage {
            separate_qkv: format(tensors, "layers.0.attn.q").is_some(),
            experts: format(tensors, "layers.0.mlp.experts.down").unwrap_or(MatrixFormat::Mxfp4),
            attention: dense("layers.0.attn.out").unwrap_or(PLAIN),
            lm_head: dense("lm_head"),
        },
        sources: |canonical, _| Sources::Tensor(canonical.to_owned()),
    }
}

/// The format of a matrix, by the names of its parts.
fn format(tensors: &Tensors, path: &str) -> Option<MatrixFormat> {
    let part = |name: &str| tensors.shape(&format!("{path}.{name}"));
    if let Some(codes) = part("codes") {
        let bits = Bits::ALL.into_iter().find(|bits| codes.last() == Some(&bits.block_bytes()));
        return bits.map(MatrixFormat::Int);
    }
    [
        ("weight_t", TRANSPOSED),
        ("weight", PLAIN),
        ("columns", MatrixFormat::Mxfp4ColMajor),
        ("blocks", MatrixFormat::Mxfp4),
    ]
    .into_iter()
    .find_map(|(name, format)| part(name).map(|_| format))
}
