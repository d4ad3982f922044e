//! The floating-point types that the forward pass runs in.

use std::iter::Sum;

use ndarray::NdFloat;

/// `f64`, which models are compared with, or `f32`, whose distance from it is the noise of
/// float32 itself.
pub trait Real: NdFloat + Sum + Into<f64> {
    /// The nearest value.
    fn of(value: f64) -> Self;
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}
