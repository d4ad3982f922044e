//! Weights: how the bytes of each come about, what identifies a set of them, and where
//! they are read from or written to.

mod conversion;
mod external_data;
mod fingerprint;
mod format;
mod matrix;
mod provenance;
mod reader;
mod recipe;
mod samples;
mod stacked;
mod weights_file;

pub use conversion::convert;
pub use external_data::{Obstacle, link_kind, reference, relative_to};
pub use fingerprint::{FORMAT_VERSION, Fingerprint};
pub use format::{ElementKind, FormatSet, MatrixFormat};
pub use provenance::{PerRole, Provenance};
pub use reader::{
    FileCache, cannot_read, examine, has_equal_values, is_zero, read_range, require_finite,
};
pub use recipe::{
    Changes, Conversion, Factor, FactorAxes, LowRank, Matrix, NewRows, Recipe, Role, Rows, Slot,
    Weight,
};
pub use samples::{Faults, Samples, Zeros};
pub use stacked::{stack, total_rank};
pub use weights_file::{Present, StagedMetadata, WeightsFile};
