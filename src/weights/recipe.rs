//! Weights, matrices of them, and how their bytes come about.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Changes;
use super::format::{ElementKind, MatrixFormat, MatrixPart};
use crate::error::{Result, ensure};
use crate::files::FileRange;
use crate::tensor::{BLOCK, DType};

/// A tensor that a graph reads, and how its bytes come about.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Canonical name, the same for every checkpoint layout.
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub kind: ElementKind,
    pub recipe: Recipe,
}

/// How the bytes of a weight come about.
#[derive(Clone, Debug, PartialEq)]
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
    pub fn sources(&self) -> Vec<&FileRange> {
        match self {
            Self::Slice(source) => vec![source],
            Self::Concat(sources) => sources.iter().collect(),
            Self::InterleaveRows { pairs, .. } => pairs.as_flattened().iter().collect(),
            Self::Converted(conversion, _) => {
                conversion.sources().flat_map(|weight| weight.recipe.sources()).collect()
            }
        }
    }
}

impl Weight {
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(&self.shape).expect("the size of a tensor that exists")
    }

    /// The dtype that its bytes encode: scales of MXFP4 are often stored as U8.
    pub fn encoded_dtype(&self) -> DType {
        if self.kind == ElementKind::Mxfp4Scales { DType::F8E8M0 } else { self.dtype }
    }

    /// Some of its rows, which are one byte range of its own, under a name.
    pub fn rows(&self, name: String, rows: &Range<u64>) -> Self {
        let Recipe::Slice(FileRange { file, range }) = &self.recipe else {
            unreachable!("`{}` is one byte range", self.name)
        };
        let row = self.bytes() / self.shape[0];
        let range = range.start + rows.start * row..range.start + rows.end * row;
        let recipe = Recipe::Slice(FileRange { file: file.clone(), range });
        let shape = [&[rows.end - rows.start], &self.shape[1..]].concat();
        Self { name, shape, recipe, ..*self }
    }

    /// A bias `[out]` or `[experts, out]` in f32, with the biases of the terms of its matrix.
    pub fn merged_bias(&self, changes: &Changes) -> Result<Self> {
        let [rows @ .., out] = &self.shape[..] else { unreachable!("a bias has an axis") };
        let sides = [rows.iter().product(), *out];
        let row_major = MatrixFormat::Float(self.dtype);
        let from = Matrix::new(&self.name, row_major, None, sides, |_| Ok(self.clone()))?;
        let conversion = Conversion {
            path: self.name.clone(),
            role: None,
            from,
            merge: Some(Merge::Bias(changes.clone())),
            to: MatrixFormat::Float(DType::F32),
            accept_rounding: false,
        };
        let recipe = Recipe::Converted(Arc::new(conversion), 0);
        Ok(Self { dtype: DType::F32, recipe, ..self.clone() })
    }

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
        let both = self.conversion().zip(other.conversion());
        both.is_some_and(|((one, _), (two, _))| Arc::ptr_eq(one, two))
    }
}

/// A matrix to be converted.
#[derive(Debug, PartialEq)]
pub struct Conversion {
    /// Canonical name of the result.
    pub(super) path: String,
    /// `None` for values that only a merge converts: routers, the embedding and biases.
    pub(crate) role: Option<Role>,
    pub(crate) from: Matrix,
    pub(super) merge: Option<Merge>,
    pub(super) to: MatrixFormat,
    pub(super) accept_rounding: bool,
}

/// What adapters change in the values of a conversion.
#[derive(Debug, PartialEq)]
pub(super) enum Merge {
    Matrix(Changes),
    /// The biases of terms are added to a bias, which is a matrix with a row, or one for each
    /// expert.
    Bias(Changes),
}

impl Merge {
    pub fn changes(&self) -> &Changes {
        match self {
            Self::Matrix(changes) | Self::Bias(changes) => changes,
        }
    }
}

impl Conversion {
    /// All that it reads.
    pub fn sources(&self) -> impl Iterator<Item = &Weight> {
        let changes = self.merge.iter().flat_map(|it| it.changes().weights());
        self.from.parts.iter().chain(changes)
    }

    /// What belongs to the identity of a model besides the sources.
    pub fn identity(&self) -> String {
        self.merge.as_ref().map_or(String::new(), |it| it.changes().identity())
    }
}

/// What matrices are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Experts,
    /// Attention and lm_head.
    Dense,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Experts, Self::Dense];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Experts => "experts",
            Self::Dense => "dense matrices",
        })
    }
}

/// A matrix `[out, in]`, or one for each expert, all in one format.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Canonical name, such as `layers.0.attn.q`; parts are named `path.part`.
    pub path: String,
    pub format: MatrixFormat,
    /// Number of experts; `None` for a dense layer.
    pub experts: Option<u64>,
    pub out: u64,
    pub inn: u64,
    /// Its tensors, in the order of [`MatrixFormat::parts`].
    pub parts: Vec<Weight>,
}

impl Matrix {
    /// A matrix whose parts `weight` finds or makes. Floats may turn out to have another
    /// dtype than the format says.
    pub fn new(
        path: &str,
        format: MatrixFormat,
        experts: Option<u64>,
        [out, inn]: [u64; 2],
        weight: impl FnMut((usize, MatrixPart)) -> Result<Weight>,
    ) -> Result<Self> {
        let parts = format.parts(experts.as_slice(), [out, inn]).into_iter().enumerate();
        let parts = parts.map(weight).collect::<Result<Vec<_>>>()?;
        let format = format.with_dtype(parts[0].dtype);
        Ok(Self { path: path.to_owned(), format, experts, out, inn, parts })
    }

    /// A single tensor `[out, in]` of floats as a matrix.
    pub fn from_weight(path: &str, weight: &Weight) -> Self {
        let (format, shape) = (MatrixFormat::Float(weight.dtype), &weight.shape);
        let sides = [shape[0], shape[1]];
        Self::new(path, format, None, sides, |_| Ok(weight.clone())).expect("its only part")
    }

    /// Some of its rows as a matrix with another path.
    pub fn rows(&self, path: &str, rows: &Range<u64>) -> Self {
        let part =
            |part: &Weight| part.rows(format!("{path}{}", &part.name[self.path.len()..]), rows);
        let parts = self.parts.iter().map(part).collect();
        Self { path: path.to_owned(), out: rows.end - rows.start, parts, ..*self }
    }

    /// Its only tensor: floats.
    pub fn whole(&self) -> &Weight {
        &self.parts[0]
    }

    /// Its codes and scales, of a format that has both.
    pub fn codes_and_scales(&self) -> [&Weight; 2] {
        [&self.parts[0], &self.parts[1]]
    }

    /// Number of matrices, `out` and `in`.
    pub fn dims(&self) -> [u64; 3] {
        [self.experts.unwrap_or(1), self.out, self.inn]
    }

    pub fn num_elements(&self) -> u64 {
        self.dims().iter().product()
    }

    /// Whether rows are whole blocks of 32.
    pub fn fills_blocks(&self) -> bool {
        self.inn.is_multiple_of(BLOCK)
    }

    /// What it is converted from, or itself.
    pub fn source(&self) -> &Self {
        self.parts[0].conversion().map_or(self, |(conversion, _)| &conversion.from)
    }

    /// The matrix in a format, under a canonical name; itself if it has the format. A
    /// converted matrix is converted anew from its source.
    pub fn converted(
        &self,
        path: &str,
        role: Role,
        to: MatrixFormat,
        accept_rounding: bool,
    ) -> Result<Self> {
        let from = self.source().clone();
        if from.format == to {
            return Ok(from);
        }
        ensure!(
            from.fills_blocks(),
            "`{path}` has rows of {} elements, and conversions need a multiple of 32: keep the format of the {role}",
            from.inn
        );
        let (path, role) = (path.to_owned(), Some(role));
        Self::made_by(Conversion { path, role, from, merge: None, to, accept_rounding })
    }

    /// The matrix with changes, in a format.
    pub fn merged(
        &self,
        changes: &Changes,
        role: Option<Role>,
        to: MatrixFormat,
        accept_rounding: bool,
    ) -> Result<Self> {
        let (path, from) = (self.path.clone(), self.source().clone());
        let is_plain =
            matches!((from.format, to), (MatrixFormat::Float(_), MatrixFormat::Float(_)));
        ensure!(
            is_plain || from.fills_blocks(),
            "`{path}` has rows of {} elements, and merging into {to} needs a multiple of 32",
            from.inn
        );
        let merge = Some(Merge::Matrix(changes.clone()));
        Self::made_by(Conversion { path, role, from, merge, to, accept_rounding })
    }

    fn made_by(conversion: Conversion) -> Result<Self> {
        let Conversion { path, from, to, .. } = &conversion;
        ensure!(
            from.format != MatrixFormat::Mxfp4ColMajor,
            "`{path}` is laid out for CUDA and cannot be converted: use the checkpoint itself"
        );
        ensure!(
            !matches!(to, MatrixFormat::FloatTransposed(_)),
            "`{path}`: a conversion to {to} writes rows [out, in], and cannot transpose them"
        );
        let (path, to, experts, sides) = (path.clone(), *to, from.experts, [from.out, from.inn]);
        let conversion = Arc::new(conversion);
        Self::new(&path, to, experts, sides, |(at, part)| {
            let MatrixPart { name, kind, dtype, shape } = part;
            let recipe = Recipe::Converted(conversion.clone(), at);
            Ok(Weight { name: format!("{path}.{name}"), dtype, shape, kind, recipe })
        })
    }
}
