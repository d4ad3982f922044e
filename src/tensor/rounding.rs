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
    /// How many numbers are compared at once.
    pub const AT_ONCE: usize = 32;

    /// What became of numbers that are now `back`. Where all are finite, as most
    /// often, the loops have no branches, and a processor runs them many times faster.
    pub fn of(numbers: &[f32; Self::AT_ONCE], back: &[f32; Self::AT_ONCE]) -> Self {
        let finite = |all: bool, number: &f32| all & number.is_finite();
        let all_finite = back.iter().fold(numbers.iter().fold(true, finite), finite);
        if !all_finite {
            return without_infinite(numbers, back);
        }
        let pairs = numbers.iter().zip(back);
        let changed = pairs.map(|(number, back)| u32::from(number.to_bits() != back.to_bits()));
        let changed: u32 = changed.sum();
        Self {
            numbers: Self::AT_ONCE as u64,
            changed: changed.into(),
            squares: sum_of_squares(numbers, &[0.0; Self::AT_ONCE]),
            error: if changed == 0 { 0.0 } else { sum_of_squares(numbers, back) },
            ..Self::default()
        }
    }

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

/// The same where some are not finite: these count as zeros besides.
fn without_infinite(numbers: &[f32; LENGTH], back: &[f32; LENGTH]) -> Rounding {
    let mut finite = [*numbers, *back];
    let (mut not_finite, mut overflowed) = (0, 0);
    for at in 0..LENGTH {
        match (numbers[at].is_finite(), back[at].is_finite()) {
            (true, true) => continue,
            (true, false) => overflowed += 1,
            (false, _) => not_finite += 1,
        }
        finite.iter_mut().for_each(|numbers| numbers[at] = 0.0);
    }
    Rounding { not_finite, overflowed, ..Rounding::of(&finite[0], &finite[1]) }
}

/// Of the differences, in f64 and in eight sums, which a processor adds at once.
fn sum_of_squares(numbers: &[f32; LENGTH], from: &[f32; LENGTH]) -> f64 {
    let mut sums = [0f64; 8];
    for (numbers, from) in numbers.as_chunks::<8>().0.iter().zip(from.as_chunks::<8>().0) {
        for ((sum, number), from) in sums.iter_mut().zip(numbers).zip(from) {
            *sum += (f64::from(*number) - f64::from(*from)).powi(2);
        }
    }
    sums.iter().sum()
}

const LENGTH: usize = Rounding::AT_ONCE;
