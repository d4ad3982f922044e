//! The matrices of experts: the forms in which they are stored.

use super::{Recipe, Weight};
use crate::tensor::mxfp4;

/// A matrix `[out, in]` for each expert, in the form in which all are stored.
/// Their name tells the form: a square matrix looks the same either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpertMatrix {
    /// In MXFP4 along `in`.
    Mxfp4 {
        /// `blocks [experts, out, in/32, 16]`
        blocks: Weight,
        /// `scales [experts, out, in/32]`
        scales: Weight,
    },
    /// `weight [experts, out, in]`
    OutputMajor(Weight),
    /// `weight_t [experts, in, out]`
    InputMajor(Weight),
}

impl ExpertMatrix {
    /// The weights that it consists of.
    pub fn weights(&self) -> Vec<&Weight> {
        match self {
            Self::Mxfp4 { blocks, scales } => vec![blocks, scales],
            Self::OutputMajor(weight) | Self::InputMajor(weight) => vec![weight],
        }
    }

    /// How many experts there are, and `out` and `in` of each.
    pub fn sizes(&self) -> [u64; 3] {
        match self {
            Self::Mxfp4 { scales: Weight { shape, .. }, .. } => {
                [shape[0], shape[1], shape[2] * mxfp4::BLOCK]
            }
            Self::OutputMajor(Weight { shape, .. }) => [shape[0], shape[1], shape[2]],
            Self::InputMajor(Weight { shape, .. }) => [shape[0], shape[2], shape[1]],
        }
    }

    /// Whether their rows are whole blocks of MXFP4.
    pub fn fills_blocks(&self) -> bool {
        self.sizes()[2].is_multiple_of(mxfp4::BLOCK)
    }

    /// How many numbers they have.
    pub fn numbers(&self) -> u64 {
        self.sizes().iter().product()
    }

    /// What it is converted from, or itself where it is not converted.
    pub fn source(&self) -> &Self {
        match &self.weights()[0].recipe {
            Recipe::Converted(conversion, _) => conversion.from(),
            _ => self,
        }
    }

    /// The format of its numbers.
    pub fn format(&self) -> String {
        match self {
            Self::Mxfp4 { .. } => "mxfp4".to_owned(),
            Self::OutputMajor(weight) | Self::InputMajor(weight) => weight.dtype.to_string(),
        }
    }
}
