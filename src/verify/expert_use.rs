//! How often the experts of each layer were chosen.

use std::path::Path;

use serde::Serialize;

use crate::error::{Result, ensure};
use crate::files::json;
use crate::publish::{Existing, Transaction};
use crate::reference::Activations;

/// How often the experts of each layer were chosen.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertUse {
    /// Tokens that went through each layer.
    pub tokens: u64,
    /// Experts that each of them chose.
    pub experts_per_token: u64,
    /// Tokens that chose each expert, `[layer][expert]`.
    pub layers: Vec<Vec<u64>>,
}

impl ExpertUse {
    pub(crate) fn new(activations: &Activations) -> Self {
        let (experts_per_token, layers) =
            (activations.experts_per_token(), activations.expert_use.clone());
        let chosen: u64 = layers.first().into_iter().flatten().sum();
        Self { tokens: chosen / experts_per_token, experts_per_token, layers }
    }

    /// Refuses a path where a file is: it may be a checkpoint's config.
    pub fn require_new(path: &Path) -> Result<()> {
        ensure!(
            path.symlink_metadata().is_err(),
            "`{}` exists, and is not replaced: move it away, or choose another name",
            path.display()
        );
        Ok(())
    }

    /// Writes them as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        Self::require_new(path)?;
        let mut transaction = Transaction::default();
        transaction.create_from(path, Existing::Keep, &json::to_vec(self))?;
        transaction.commit()
    }
}
