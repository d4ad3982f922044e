//! Values computed in f64, as f32.

use super::Rounding;

/// The nearest f32 of each value, and how far they are off.
pub fn nearest(values: &[f64]) -> (Vec<f32>, Rounding) {
    let rounded: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    let mut rounding = Rounding::default();
    for (value, rounded) in values.iter().zip(&rounded) {
        rounding.values += 1;
        rounding.not_finite += u64::from(!value.is_finite());
        rounding.overflowed += u64::from(value.is_finite() && !rounded.is_finite());
        if rounded.is_finite() {
            let off = value - f64::from(*rounded);
            rounding.changed += u64::from(off != 0.0);
            rounding.squares += value.powi(2);
            rounding.error += off.powi(2);
        }
    }
    (rounded, rounding)
}

/// A value rounded to odd: where f32 does not hold it, the neighbour whose last bit is set. Rounding
/// that to a shorter format gives what rounding the value itself would, and is exact only if the
/// value is: a sum is rounded once.
pub fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || !value.is_finite() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - u32::from(f64::from(nearest).abs() > value.abs());
    f32::from_bits(towards_zero | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 bits of mantissa, halfway between two numbers of BF16, and a little more or less, which f32
    /// does not hold.
    #[test]
    fn rounding_to_odd_rounds_once() {
        let tiny = 2f64.powi(-50);
        for (value, bf16) in [
            (1.0 + 2f64.powi(-8), 1.0),
            (1.0 + 2f64.powi(-8) + tiny, 1.0 + 2f32.powi(-7)),
            (1.0 + 2f64.powi(-8) - tiny, 1.0),
            (1.0 + 3.0 * 2f64.powi(-8) - tiny, 1.0 + 2f32.powi(-7)),
            (-1.0 - 2f64.powi(-8) - tiny, -1.0 - 2f32.powi(-7)),
            (0.0, 0.0),
            (f64::INFINITY, f32::INFINITY),
            (1e300, f32::INFINITY),
        ] {
            let mut bytes = [0; 64];
            super::super::encode(super::super::DType::BF16, &[[to_odd(value); 32]], &mut bytes);
            assert_eq!(super::super::decode(super::super::DType::BF16, &bytes[..2]), [bf16]);
        }
        assert_eq!(nearest(&[1.0, 1.0 + tiny, f64::NAN, 1e300]).1.changed, 1);
    }
}
