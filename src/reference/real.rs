//! The floating types that the forward pass runs in.

use std::iter::Sum;

use ndarray::NdFloat;

/// `f64`, which is what a model is compared with, or `f32`, which shows how far
/// that type's own rounding leads.
pub trait Real: NdFloat + Sum + Into<f64> {
    /// The nearest of its numbers.
    fn of(number: f64) -> Self;
}

impl Real for f64 {
    fn of(number: f64) -> Self {
        number
    }
}

impl Real for f32 {
    fn of(number: f64) -> Self {
        number as f32
    }
}

/// Numbers of one type in the other.
pub fn all_of<F: Real>(numbers: Vec<f32>) -> Vec<F> {
    numbers.into_iter().map(|number| F::of(f64::from(number))).collect()
}
