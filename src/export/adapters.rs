//! The adapters of an export: what of them a checkpoint gets.

use super::{AdapterSummary, Request};
use crate::adapter::{self, AdapterFile};
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// Adds adapters to a whole checkpoint.
pub fn add(
    checkpoint: &mut Checkpoint,
    request: &Request,
    files: &[AdapterFile],
) -> Result<Vec<AdapterSummary>> {
    let fitted = adapter::fit_all(files, checkpoint, request.adapter_layout)?;
    let weights = request.adapters.iter().map(|it| it.weight);
    let fitted: Vec<_> = fitted.into_iter().zip(weights).collect();
    adapter::apply(checkpoint, &fitted)?;
    let fitted = files.iter().zip(&fitted);
    fitted.map(|(file, (adapter, weight))| AdapterSummary::new(file, adapter, *weight)).collect()
}
