//! Weights: how the bytes of each come about, what identifies a set of them, and where
//! they are read from or written to.

mod conversion;
mod external_data;
mod fingerprint;
mod format;
mod low_rank;
mod provenance;
mod reader;
mod recipe;
mod stacked;
mod weights_file;

pub use conversion::convert;
pub use external_data::{Obstacle, link_kind, reference, relative_to};
pub use fingerprint::{FORMAT_VERSION, Fingerprint};
pub use format::{ElementKind, FormatSet, MatrixFormat};
pub use low_rank::{Changes, Factor, FactorAxes, LowRank, NewRows, Rows, Slot};
pub use provenance::{PerRole, Provenance};
pub use reader::{
    FileCache, cannot_read, count_non_finite, ensure_finite, examine, has_equal_values, read_range,
};
pub use recipe::{Conversion, Matrix, Recipe, Role, Weight};
pub use stacked::{stack, total_rank};
pub use weights_file::{Present, StagedMetadata, WeightsFile};
