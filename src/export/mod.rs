//! The pipeline: open, identify, build the graph, place the weights, publish.

mod companions;
mod onnx_file;
mod open;
mod placement;
mod plan;
mod report;
mod request;
mod shards;
mod summary;
mod web;

use std::path::PathBuf;
use std::time::Instant;

pub use companions::GenaiSummary;
pub use request::{ExternalData, Formats, FromHub, Genai, Origin, Request};
pub use summary::{
    Converted, ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WeightsSummary,
};
pub use web::WebSummary;

pub use crate::onnx::Interface;
pub use crate::weights::Format;

use crate::checkpoint;
use crate::genai;
use crate::hub;
use crate::model;
use crate::onnx;
use crate::progress::Progress;
use crate::publish::{self, Transaction};
use crate::tokenizer;
use crate::transformers_js;
use crate::weights::{self, Fingerprint, Obstacle, Role};
use open::open;
use plan::Plan;

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Hub(#[from] hub::Error),
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    #[error(transparent)]
    Read(#[from] onnx::ReadError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Publish(#[from] publish::Error),
    #[error(
        "`{}` says its contents have fingerprint {said}, but they have {found}: it was changed, stage it again", path.display()
    )]
    Changed { path: PathBuf, said: Fingerprint, found: Fingerprint },
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Genai(#[from] genai::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error("onnxruntime-genai gives prompts of any length, so --genai does not go with --seq-len")]
    GenaiLength,
    #[error("{role} takes no {format}")]
    NoFormat { role: Role, format: Format },
    #[error("--headers-only fetches no weights, and {0} needs them")]
    NeedsWeights(&'static str),
    #[error("--headers-only leaves weights where they will be, and the model cannot read them from `{}`: {obstacle}", file.display())]
    AwaitedElsewhere { file: PathBuf, obstacle: Obstacle },
    #[error(
        "--max-shard-size and --transformers-js are for weights that are written, and --external-data in-place writes none"
    )]
    ShardsInPlace,
    #[error(
        "`{tensor}` and what a file needs besides take {bytes} bytes, and a file may have {most}: allow so many with --max-shard-size"
    )]
    ShardTooSmall { tensor: String, bytes: u64, most: u64 },
    #[error(transparent)]
    TransformersJs(#[from] transformers_js::Error),
    #[error("`{}` is not valid UTF-8, so no other file can name it", .0.display())]
    NotUnicode(PathBuf),
    #[error("`{}` is a folder, not a file to write", .0.display())]
    IsFolder(PathBuf),
}

/// Runs a request. Whatever fails, the destination is as it was before.
pub fn export(request: &Request, progress: &dyn Progress) -> Result<Summary, Error> {
    let started = Instant::now();
    request.check()?;
    let opened = open(request, progress)?;
    let plan = Plan::new(request, &opened)?;

    let mut transaction = Transaction::default();
    plan.targets().try_for_each(|path| transaction.claim(path))?;
    let (written, roundings) = plan.write_weights(&mut transaction, progress)?;
    let model = plan.write_rest(&mut transaction, &roundings)?;
    if progress.is_cancelled() {
        return Err(weights::Error::Interrupted.into());
    }
    transaction.commit()?;
    Ok(plan.summarise(model, written, &roundings, started.elapsed()))
}
