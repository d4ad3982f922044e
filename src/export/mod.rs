//! The pipeline: open, identify, build the graph, place the weights, publish.

mod open;
mod placement;
mod plan;
mod request;
mod spec;
mod summary;
mod text;

use std::time::Instant;

pub use request::{ExternalData, HubSource, Preset, Request, Source};
pub use spec::Spec;
pub use summary::{
    Converted, ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WeightsSummary,
};

pub use crate::checkpoint::{IgnoredNames, similar_dir};
pub use crate::hub::RepoPath;
pub use crate::model::{GraphOptions, Provider, Target};
pub use crate::onnx::ValueInfo;
pub use crate::package::{GenaiSummary, TransformersJsSummary};
pub use crate::tensor::DType;
pub use crate::tensor::ints::Bits;
pub use crate::weights::MatrixFormat;

use crate::error::Result;
use crate::progress::Progress;
use crate::publish::Transaction;
use open::open;
use plan::Plan;

/// Runs an export. If it fails, the destination is as it was before.
pub fn export(spec: &Spec, progress: &dyn Progress) -> Result<Summary> {
    let started = Instant::now();
    let opened = open(spec, progress)?;
    let plan = Plan::new(spec, &opened)?;

    let mut transaction = Transaction::default();
    plan.targets().try_for_each(|path| transaction.claim(path))?;
    let (written, rounding) = plan.write_weights(&mut transaction, progress)?;
    let model = plan.write_model(&mut transaction, &rounding)?;
    progress.check_cancelled()?;
    transaction.commit()?;
    Ok(plan.summarize(model, written, &rounding, started.elapsed()))
}
