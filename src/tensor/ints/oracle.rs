//! What integers leave, by their definition and by trying: what tests compare with.

use crate::tensor::mxfp4::BLOCK;

const LENGTH: usize = BLOCK as usize;

/// The squared error of the nearest integers of 4 bits under a scale.
fn four_bits_under(scale: f64, numbers: &[f32; LENGTH]) -> f64 {
    let off = |number: &f32| {
        let code = (f64::from(*number) / scale).round().clamp(-8.0, 7.0);
        (f64::from(*number) - code * scale).powi(2)
    };
    numbers.iter().map(off).sum()
}

/// The largest magnitude, with its sign.
fn largest(numbers: &[f32; LENGTH]) -> f64 {
    numbers.iter().fold(0f64, |largest, number| {
        if f64::from(number.abs()) > largest.abs() { f64::from(*number) } else { largest }
    })
}

/// What others do: the largest magnitude, sign and all, becomes -8.
pub fn by_the_maximum(numbers: &[f32; LENGTH]) -> f64 {
    four_bits_under(largest(numbers) / -8.0, numbers)
}

/// The least of a thousand scales, from far too small to far too large.
pub fn least(numbers: &[f32; LENGTH]) -> f64 {
    let largest = largest(numbers);
    let scales = (400..=1000).flat_map(|code| [1.0, -1.0].map(|sign| sign * f64::from(code)));
    let errors = scales.map(|code| four_bits_under(largest * 100.0 / code, numbers));
    errors.fold(f64::INFINITY, f64::min)
}

/// The squared error of what came out.
pub fn error(numbers: &[f32; LENGTH], back: &[f32; LENGTH]) -> f64 {
    let off = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    numbers.iter().zip(back).map(off).sum()
}

/// Blocks of numbers that are as good as normally distributed.
pub fn normal_blocks(count: usize) -> impl Iterator<Item = [f32; LENGTH]> {
    let mut random = 1u32;
    let mut uniform = move || {
        // Numerical Recipes' generator: any will do.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(random) / f64::from(u32::MAX) - 0.5
    };
    let mut normal = move || (0..12).map(|_| uniform()).sum::<f64>() as f32;
    (0..count).map(move |_| std::array::from_fn(|_| normal()))
}
