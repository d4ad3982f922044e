//! Which adapters an export gets, and what becomes of them.

use std::path::PathBuf;

use crate::error::{Result, ensure};

/// An adapter, and how much of it to add.
#[derive(Clone, Debug)]
pub struct AdapterSource {
    /// By default that of its folder.
    pub name: Option<String>,
    /// Its folder, or its SafeTensors file.
    pub path: PathBuf,
    /// Multiplies what it adds; 1 adds what was trained.
    pub weight: f64,
}

/// What becomes of adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterAs {
    /// The model adds them, from their own files.
    #[default]
    Inline,
    /// A runtime adds those that it is told to, from files beside the model.
    Swappable,
    /// They are folded into the weights.
    Merge,
}

impl AdapterSource {
    /// Refuses a weight that adds nothing.
    pub fn check(&self) -> Result<()> {
        let (path, weight) = (self.path.display(), self.weight);
        ensure!(
            weight.is_finite() && weight != 0.0,
            "adapter `{path}` has the weight {weight}, expected a number other than 0, such as 0.5: leave the adapter out to add nothing"
        );
        Ok(())
    }
}

impl Default for AdapterSource {
    /// The adapter in the current folder.
    fn default() -> Self {
        Self { name: None, path: ".".into(), weight: 1.0 }
    }
}
