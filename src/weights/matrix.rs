//! Matrices of dense layers and of experts.

use super::format::{MatrixFormat, MatrixPart};
use super::{Recipe, Weight};
use crate::error::Result;
use crate::tensor::mxfp4;

/// A matrix `[out, in]`, or one for each expert, all in one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Canonical name, such as `layers.0.attn.q`; parts are named `path.part`.
    pub path: String,
    pub format: MatrixFormat,
    /// Number of experts; `None` for a dense layer.
    pub experts: Option<u64>,
    pub out: u64,
    pub inn: u64,
    parts: Vec<Weight>,
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
        Self {
            path: path.to_owned(),
            format: MatrixFormat::Float(weight.dtype),
            experts: None,
            out: weight.shape[0],
            inn: weight.shape[1],
            parts: vec![weight.clone()],
        }
    }

    /// Its tensors, in the order of [`MatrixFormat::parts`].
    pub fn weights(&self) -> &[Weight] {
        &self.parts
    }

    pub fn weights_mut(&mut self) -> &mut [Weight] {
        &mut self.parts
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
        self.inn.is_multiple_of(mxfp4::BLOCK)
    }

    /// What it is converted from, or itself.
    pub fn source(&self) -> &Self {
        match &self.parts[0].recipe {
            Recipe::Converted(conversion, _) => conversion.source(),
            _ => self,
        }
    }
}
