//! How far values are from what another format made of them.

use std::iter::Sum;
use std::ops::AddAssign;

use super::{BLOCK, BlockValues};

/// What a conversion did to some values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// How many values were converted.
    pub values: u64,
    /// How many came out different.
    pub changed: u64,
    /// How many were infinity or NaN; they count in none of the fields below.
    pub not_finite: u64,
    /// How many were finite, and beyond the largest value of the format.
    pub overflowed: u64,
    /// The sum of the squared values.
    pub squares: f64,
    /// The sum of the squared errors.
    pub error: f64,
}

impl Rounding {
    /// Compares values with what they became. The usual case, that all are finite, has no
    /// branches, so that the compiler vectorizes its loops.
    pub fn of(values: &BlockValues, converted: &BlockValues) -> Self {
        let finite = |all: bool, value: &f32| all & value.is_finite();
        if !converted.iter().fold(values.iter().fold(true, finite), finite) {
            return Self::of_non_finite(*values, *converted);
        }
        let pairs = values.iter().zip(converted);
        let changed = pairs.map(|(value, converted)| value.to_bits() != converted.to_bits());
        let changed: u32 = changed.map(u32::from).sum();
        let square = |value, _| f64::from(value).powi(2);
        let error = |value, converted| (f64::from(value) - f64::from(converted)).powi(2);
        Self {
            values: BLOCK,
            changed: changed.into(),
            squares: sum_in_lanes(values, values, square),
            error: if changed == 0 { 0.0 } else { sum_in_lanes(values, converted, error) },
            ..Self::default()
        }
    }

    /// Compares those that are not finite as zeros.
    fn of_non_finite(mut values: BlockValues, mut converted: BlockValues) -> Self {
        let (mut not_finite, mut overflowed) = (0, 0);
        for (value, converted) in values.iter_mut().zip(&mut converted) {
            not_finite += u64::from(!value.is_finite());
            overflowed += u64::from(value.is_finite() && !converted.is_finite());
            if !(value.is_finite() && converted.is_finite()) {
                (*value, *converted) = (0.0, 0.0);
            }
        }
        Self { not_finite, overflowed, ..Self::of(&values, &converted) }
    }

    /// Whether every value came out bit for bit.
    pub fn is_lossless(&self) -> bool {
        self.changed == 0 && self.not_finite == 0 && self.overflowed == 0
    }

    /// The norm of the errors, divided by that of the values.
    pub fn relative_error(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.squares).sqrt() }
    }
}

impl AddAssign for Rounding {
    fn add_assign(&mut self, other: Self) {
        self.values += other.values;
        self.changed += other.changed;
        self.not_finite += other.not_finite;
        self.overflowed += other.overflowed;
        self.squares += other.squares;
        self.error += other.error;
    }
}

/// The sum of a term for each pair of values. Its order is part of the result; eight lanes
/// let the compiler vectorize it.
pub fn sum_in_lanes<T: Copy + Default + AddAssign + Sum>(
    left: &BlockValues,
    right: &BlockValues,
    term: impl Fn(f32, f32) -> T,
) -> T {
    let mut sums = [T::default(); 8];
    for (left, right) in left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += term(*left, *right);
        }
    }
    sums.into_iter().sum()
}
