//! LoRA adapters, of which only headers are read: what an adapter changes in a base, under
//! canonical names, with recipes for the bytes.
//!
//! An adapter first replaces values, then adds a product of two small matrices to others:
//!
//! ```text
//! W' = W + s · B · A        A [r, in], B [out, r]; for experts W, A and B of each expert
//! y  = x·Wᵀ + b + s · ((x·Aᵀ)·Bᵀ + bias of B)
//! ```
//!
//! `A` is here always the factor that inputs meet first, whatever the file calls it.

mod change;
mod config;
mod file;
mod fit;
mod names;

use std::path::Path;

pub use change::{Adapter, Factor, FactorAxes, FactorOrder, LowRank, Replacement, Rows};
pub use file::{AdapterFile, WEIGHTS, is_adapter, rank};
pub use names::{Form, Part, Side};

use crate::checkpoint::{Checkpoint, IgnoredNames};
use crate::error::Result;

impl Adapter {
    /// Opens an adapter's folder, and fits it to a base. Where the file does not tell the order
    /// of the factors of experts, `order` does.
    pub fn open(
        folder: &Path,
        base: &Checkpoint,
        ignored: &IgnoredNames,
        order: Option<FactorOrder>,
    ) -> Result<Self> {
        fit::fit(&AdapterFile::open(folder, ignored)?, base, order)
    }
}
