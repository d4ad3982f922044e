//! The pipeline: open, identify, build the graph, place the weights, publish.

mod onnx_file;
mod open;
mod placement;
mod plan;
mod report;
mod request;
mod shards;
mod summary;

use std::time::Instant;

pub use request::{ExternalData, Formats, FromHub, Genai, Origin, Request};
pub use summary::{
    Converted, ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WeightsSummary,
};

pub use crate::onnx::ValueInfo;
pub use crate::package::{GenaiSummary, TokenizerSummary, TransformersJsSummary};
pub use crate::weights::MatrixFormat;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::publish::Transaction;
use open::open;
use plan::Plan;

/// Runs a request. Whatever fails, the destination is as it was before.
pub fn export(request: &Request, progress: &dyn Progress) -> Result<Summary> {
    let started = Instant::now();
    request.check()?;
    let opened = open(request, progress)?;
    let plan = Plan::new(request, &opened)?;

    let mut transaction = Transaction::default();
    plan.targets().try_for_each(|path| transaction.claim(path))?;
    let (written, roundings) = plan.write_weights(&mut transaction, progress)?;
    let model = plan.write_rest(&mut transaction, &roundings)?;
    if progress.is_cancelled() {
        return Err(Error::interrupted());
    }
    transaction.commit()?;
    Ok(plan.summarise(model, written, &roundings, started.elapsed()))
}
