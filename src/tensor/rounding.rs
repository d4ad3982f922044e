//! How far numbers are from what a format made of them.

use std::ops::AddAssign;

/// What became of some numbers in another format.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// How many there are.
    pub numbers: u64,
    /// How many of them came out different.
    pub changed: u64,
    /// How many were infinity or NaN to begin with; nothing below counts them.
    pub not_finite: u64,
    /// How many were finite, and beyond the largest number of the format.
    pub overflowed: u64,
    /// The sum of their squares.
    pub squares: f64,
    /// The sum of the squares of what each is off.
    pub error: f64,
}

impl Rounding {
    /// Whether every number came out bit for bit.
    pub fn is_lossless(&self) -> bool {
        self.changed == 0 && self.not_finite == 0 && self.overflowed == 0
    }

    /// The error's norm, divided by that of the numbers.
    pub fn relative_error(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.squares).sqrt() }
    }
}

impl AddAssign for Rounding {
    fn add_assign(&mut self, other: Self) {
        self.numbers += other.numbers;
        self.changed += other.changed;
        self.not_finite += other.not_finite;
        self.overflowed += other.overflowed;
        self.squares += other.squares;
        self.error += other.error;
    }
}
