//! Weights: how the bytes of each come about, what identifies a set of them, and where
//! they are read from or written to.

mod conversion;
mod copying;
mod external_data;
mod fingerprint;
mod format;
mod matrix;
mod provenance;
mod reader;
mod scan;
mod weights_file;

use std::sync::Arc;

pub use conversion::{Conversion, Role, convert};
pub use external_data::{InPlaceBlocker, Referable, References, link_kind, reference, relative_to};
pub use fingerprint::{FORMAT_VERSION, Fingerprint};
pub use format::{ElementKind, FormatSet, MatrixFormat};
pub use matrix::Matrix;
pub use provenance::{PerRole, Provenance};
pub use reader::{Chunk, FileCache, read_range};
pub use scan::{count_non_finite, ensure_finite};
pub use weights_file::{StagedMetadata, WeightsFile};

use crate::error::{Error, err};
use crate::files::FileRange;
use crate::tensor::DType;

/// A tensor that a graph reads, and how its bytes come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Canonical name, the same for every checkpoint layout.
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub kind: ElementKind,
    pub recipe: Recipe,
}

/// How the bytes of a weight come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// A byte range as it is.
    Slice(FileRange),
    /// Byte ranges one after the other.
    Concat(Vec<FileRange>),
    /// Pairs one after the other; within a pair rows alternate.
    InterleaveRows {
        /// Ranges of equal length.
        pairs: Vec<[FileRange; 2]>,
        /// Bytes of a row.
        row: u64,
    },
    /// The part of this index that a conversion produces.
    Converted(Arc<Conversion>, usize),
}

impl Recipe {
    /// Every byte range that is read.
    pub fn sources(&self) -> Vec<&FileRange> {
        match self {
            Self::Slice(source) => vec![source],
            Self::Concat(sources) => sources.iter().collect(),
            Self::InterleaveRows { pairs, .. } => pairs.as_flattened().iter().collect(),
            Self::Converted(conversion, _) => {
                let weights = conversion.source().weights().iter();
                weights.flat_map(|weight| weight.recipe.sources()).collect()
            }
        }
    }
}

impl Weight {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(&self.shape).expect("the size of a tensor that exists")
    }

    /// The dtype that its bytes encode: scales of MXFP4 are often stored as U8.
    pub fn encoded_dtype(&self) -> DType {
        if self.kind == ElementKind::Mxfp4Scales { DType::F8E8M0 } else { self.dtype }
    }

    /// The conversion that produces it, and the index of the part.
    pub fn conversion(&self) -> Option<(&Arc<Conversion>, usize)> {
        match &self.recipe {
            Recipe::Converted(conversion, part) => Some((conversion, *part)),
            _ => None,
        }
    }

    pub fn is_converted(&self) -> bool {
        self.conversion().is_some()
    }

    /// Whether one conversion produces both.
    pub fn shares_conversion(&self, other: &Self) -> bool {
        match (self.conversion(), other.conversion()) {
            (Some((one, _)), Some((two, _))) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

/// The error of reading a tensor; an early end of file means that the file changed.
fn read_error(error: std::io::Error, tensor: &str, source: &FileRange) -> Error {
    let file = source.file.display();
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        let range = &source.range;
        return err!(
            "`{file}` ends before the bytes {range:?} of tensor `{tensor}`: the file changed while it was read"
        );
    }
    err!("cannot read `{file}`").with_source(error)
}
