//! Weights files that an export wrote: SafeTensors with metadata and canonical names, in
//! whatever formats the checkpoint had or was given.

use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;

use super::config::Config;
use super::layout::{Layout, PLAIN, Sources, TRANSPOSED};
use super::shards::Tensors;
use super::suggest;
use crate::error::{Error, Result, ensure, err};
use crate::tensor::ints::Bits;
use crate::weights::{FORMAT_VERSION, MatrixFormat, StagedMetadata};

pub fn open(path: &Path) -> Result<(Tensors, StagedMetadata<Config>)> {
    /// The part of the metadata that every version has.
    #[derive(Deserialize)]
    struct StagedVersion {
        format: u32,
    }
    ensure!(
        !path.is_dir(),
        "`{}` is a folder, and a staged weights file is expected; to use a checkpoint, give its folder as the checkpoint",
        path.display()
    );
    let foreign = || {
        err!(
            "`{}` is not a weights file of gpt-oss-export; to use a checkpoint, give its folder{} as the checkpoint",
            path.display(),
            suggest::enclosing(path)
        )
    };
    if path.is_file() && !suggest::is_safetensors(path) {
        return Err(suggest::refuse_file(path).unwrap_or_else(foreign));
    }
    let (tensors, text) = Tensors::open_file(path)?;
    let text = text.ok_or_else(foreign)?;
    let invalid = |error: serde_json::Error| invalid_metadata(path, &error);
    // The version first: other versions may have other fields.
    let StagedVersion { format } = serde_json::from_str(&text).map_err(invalid)?;
    ensure!(
        format == FORMAT_VERSION,
        "`{}` was staged in format {format}, expected {FORMAT_VERSION}: stage it again with this version",
        path.display()
    );
    let metadata: StagedMetadata<Config> = serde_json::from_str(&text).map_err(invalid)?;
    metadata.config.check(&path.display().to_string())?;
    Ok((tensors, metadata))
}

/// The error for damaged metadata.
pub fn invalid_metadata(path: &Path, reason: &dyn Display) -> Error {
    err!("`{}` has invalid metadata ({reason}): stage it again", path.display())
}

pub fn layout(tensors: &Tensors) -> Layout {
    // Dense matrices have fewer formats: in others they count as missing.
    let is_dense = |it: &MatrixFormat| matches!(it, MatrixFormat::Float(_) | MatrixFormat::Int(_));
    Layout {
        name: "a weights file of gpt-oss-export",
        separate_qkv: format(tensors, "layers.0.attn.q").is_some(),
        experts: format(tensors, "layers.0.mlp.experts.down").unwrap_or(MatrixFormat::Mxfp4),
        attention: format(tensors, "layers.0.attn.out").filter(is_dense).unwrap_or(PLAIN),
        lm_head: format(tensors, "lm_head").filter(is_dense),
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
    let formats = [
        ("weight_t", TRANSPOSED),
        ("weight", PLAIN),
        ("columns", MatrixFormat::Mxfp4ColMajor),
        ("blocks", MatrixFormat::Mxfp4),
    ];
    formats.into_iter().find_map(|(name, format)| part(name).map(|_| format))
}
