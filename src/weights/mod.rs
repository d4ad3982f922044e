//! Weights: what each of them is made of, what identifies a set of them, and
//! where their bytes are found or put.

mod conversion;
mod copying;
mod fingerprint;
mod matrix;
mod pieces;
mod place;
mod provenance;
mod scan;
mod store;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use conversion::{Conversion, Role, convert};
pub use fingerprint::{FORMAT_VERSION, Fingerprint};
pub use matrix::{AND, Format, Matrix};
pub use pieces::{Files, Piece, read_range};
pub use place::{Obstacle, in_place, link, obstacle, relative_to};
pub use provenance::{Provenance, Provenances, Roundings};
pub use scan::{refuse_not_finite, scan};
pub use store::{Found, Metadata, Store, Visit};

use crate::tensor::DType;

/// A tensor that a graph asks for, and how its bytes come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Canonical name, the same for every checkpoint layout.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// One number for each axis.
    pub shape: Vec<u64>,
    /// Where the bytes come from.
    pub recipe: Recipe,
}

/// How the bytes of a weight come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// They lie somewhere as they are needed.
    Bytes(Source),
    /// They lie in several places, one part after the other.
    Stacked(Vec<Source>),
    /// Parts follow each other, and in each the rows of two places alternate.
    Interleaved {
        /// The places of each part, as long as each other.
        pairs: Vec<[Source; 2]>,
        /// Bytes of a row.
        row: u64,
    },
    /// They are what comes out of a conversion, as this one of its products.
    Converted(Arc<Conversion>, usize),
}

impl Recipe {
    /// The places that bytes are taken from.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Bytes(source) => vec![source],
            Self::Stacked(sources) => sources.iter().collect(),
            Self::Interleaved { pairs, .. } => pairs.as_flattened().iter().collect(),
            Self::Converted(conversion, _) => {
                let origins = conversion.from().weights().into_iter();
                origins.flat_map(|weight| weight.recipe.sources()).collect()
            }
        }
    }
}

impl Source {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A byte range of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file, as the user's path leads to it.
    pub file: Arc<Path>,
    /// From the beginning of the file.
    pub range: Range<u64>,
}

/// Why weights cannot be read, identified or stored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("cannot reference `{}` in place: {obstacle}; {}", file.display(), obstacle.advice())]
    NotInPlace { file: PathBuf, obstacle: Obstacle },
    #[error(
        "`{}` exists and is not what this export would write there (another checkpoint's weights, the same in another format, or a damaged copy), and a graph may be reading it: write into another folder, or move it away",
        .0.display()
    )]
    Occupied(PathBuf),
    #[error("cannot use `{}`: {obstacle}; remove it or its other links", file.display())]
    Linked { file: PathBuf, obstacle: Obstacle },
    #[error("cannot copy tensor `{tensor}` from `{}` to `{}`", from.display(), to.display())]
    Copy { tensor: String, from: PathBuf, to: PathBuf, source: std::io::Error },
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "`{matrix}` did not come from {format}: it would round {changed} of its {numbers} numbers, with a relative error of {error:.2e}; pass --accept-rounding if that will do, or leave out {role}"
    )]
    Rounds { matrix: String, role: Role, format: Format, changed: u64, numbers: u64, error: f64 },
    #[error(
        "`{matrix}` holds infinity or NaN in {count} of its {numbers} numbers: the checkpoint is damaged, use another copy"
    )]
    NotFinite { matrix: String, count: u64, numbers: u64 },
    #[error(
        "`{matrix}` goes beyond the largest number of {format} in {count} of its {numbers} numbers, which would become infinity: leave out {role}"
    )]
    Overflow { matrix: String, role: Role, format: Format, count: u64, numbers: u64 },
    #[error("`{matrix}` has rows of {inn} numbers, and {role} converts blocks of 32: leave it out")]
    Blocks { matrix: String, role: Role, inn: u64 },
    #[error(
        "`{matrix}` was laid out for CUDA, from which no other format is made: use the checkpoint itself"
    )]
    ForCuda { matrix: String },
    #[error("no threads for the conversion: {0}")]
    Threads(String),
    #[error("interrupted")]
    Interrupted,
    #[error("tensor `{tensor}` needs the bytes {range:?} of `{}`, which ends before: the file changed while it was read", file.display())]
    Shrunk { file: PathBuf, tensor: String, range: Range<u64> },
}

/// The result of handling weights.
pub type Result<T> = std::result::Result<T, Error>;

impl Weight {
    /// How many bytes it has, once made.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(&self.shape).expect("the size of a tensor that exists")
    }

    /// What its bytes are numbers of: most checkpoints store the scales of MXFP4 as U8.
    pub fn meaning(&self) -> DType {
        match self.dtype {
            DType::U8 if self.name.ends_with(".scales") => DType::F8E8M0,
            dtype => dtype,
        }
    }

    /// Whether one conversion makes both.
    pub fn is_made_with(&self, other: &Self) -> bool {
        match (&self.recipe, &other.recipe) {
            (Recipe::Converted(one, _), Recipe::Converted(two, _)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }

    /// Whether it is what a conversion makes.
    pub fn is_converted(&self) -> bool {
        matches!(self.recipe, Recipe::Converted(..))
    }
}

/// An end of file inside a range that the header promised has a sentence of its own.
fn read_error(error: std::io::Error, tensor: &str, source: &Source) -> Error {
    let file = source.file.to_path_buf();
    if error.kind() != std::io::ErrorKind::UnexpectedEof {
        return Error::Read { path: file, source: error };
    }
    Error::Shrunk { file, tensor: tensor.to_owned(), range: source.range.clone() }
}
