//! Weights files that an export wrote: SafeTensors with metadata and canonical names, in
//! whatever formats the checkpoint had or was given.

use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::AdapterRecord;
use super::config::Config;
use super::layout::{Form, Layout, PLAIN, TRANSPOSED};
use super::suggest;
use super::tensors::Tensors;
use crate::error::{Error, Result, bail, ensure, err};
use crate::tensor::ints::Bits;
use crate::weights::{FORMAT_VERSION, MatrixFormat, StagedMetadata};

/// What a weights file says of its model, besides what is said of all weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedModel {
    pub config: Config,
    /// Adapters that are merged into its values.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub adapters: Vec<AdapterRecord>,
}

pub fn open(path: &Path) -> Result<(Tensors, StagedMetadata<StagedModel>)> {
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
    let other = || suggest::refuse_file(path).unwrap_or_else(foreign);
    if path.is_file() && !suggest::is_safetensors(path) {
        return Err(other());
    }
    let (tensors, text) = Tensors::open_file(path)?;
    let text = text.ok_or_else(other)?;
    let invalid = |error: serde_json::Error| invalid_metadata(path, &error);
    // The version first: other versions may have other fields.
    let StagedVersion { format } = serde_json::from_str(&text).map_err(invalid)?;
    ensure!(
        format == FORMAT_VERSION,
        "`{}` was staged in format {format}, expected {FORMAT_VERSION}: stage it again with this version",
        path.display()
    );
    let metadata: StagedMetadata<StagedModel> = serde_json::from_str(&text).map_err(invalid)?;
    if let Some(adapter) = metadata.model.adapters.iter().find(|it| !it.merged) {
        bail!(
            "`{}` holds the weights of a model with the adapter `{}`, and no checkpoint: export the checkpoint itself, with the adapter",
            path.display(),
            adapter.name
        );
    }
    metadata.model.config.check(&path.display().to_string())?;
    Ok((tensors, metadata))
}

/// Refuses some of the weights of a model, as exports in stages and in files of a largest size write
/// them.
pub fn require_whole(tensors: &Tensors, config: &Config) -> Result<()> {
    let has = |start: &str| tensors.map.keys().any(|name| name.starts_with(start));
    let has_layers = (0..config.num_layers()).all(|n| has(&format!("layers.{n}.")));
    let has_head = config.tied || has("lm_head.");
    ensure!(
        has("embedding.") && has_layers && has("norm.") && has_head,
        "`{}` holds a part of the weights of an exported model: give the checkpoint that it was exported from",
        tensors.path.display()
    );
    Ok(())
}

/// The error for damaged metadata.
pub fn invalid_metadata(path: &Path, reason: &dyn Display) -> Error {
    err!("`{}` has invalid metadata ({reason}): stage it again", path.display())
}

/// Canonical names, and every format that an export writes.
pub fn layout(tensors: &Tensors) -> Layout {
    const fn form(format: MatrixFormat) -> Form {
        Form { name: "", format, names: &[] }
    }
    const DENSE: &[Form] = &[
        form(PLAIN),
        form(MatrixFormat::Int(Bits::Eight)),
        form(MatrixFormat::Int(Bits::Four)),
        form(MatrixFormat::Int8x2),
    ];
    const EXPERTS: &[Form] = &[
        form(MatrixFormat::Mxfp4),
        form(MatrixFormat::Nvfp4),
        form(MatrixFormat::Int(Bits::Eight)),
        form(MatrixFormat::Int(Bits::Four)),
        form(MatrixFormat::Int4x2),
        form(PLAIN),
        form(TRANSPOSED),
    ];
    let layout = Layout {
        name: "a weights file of gpt-oss-export",
        layer: "layers.",
        names: &[
            ("embedding", "embedding"),
            ("norm", "norm"),
            ("lm_head", "lm_head"),
            ("attn", "attn"),
            ("mlp", "mlp"),
        ],
        separate_qkv: true,
        unties: true,
        dense: DENSE,
        experts: EXPERTS,
    };
    let separate_qkv = layout.form(DENSE, "layers.0.attn.qkv", tensors).is_none();
    Layout { separate_qkv, ..layout }
}
