//! Values to MXFP4: the nearest codes under the best scale.
//!
//! Values that came from MXFP4 come back bit for bit. A block that is exact under some
//! scale is exact under the one that makes its largest magnitude 4 or 6, because codes up
//! to 3 can be doubled.

use super::block::{Block, LARGEST_SCALE, e8m0, sum_of_squares};
use crate::rounding::sum_in_lanes;
use crate::{BLOCK, BLOCK_LENGTH, BlockValues, Rounding};

const MAGNITUDE: u32 = 0x7fff_ffff;
const EXPONENT: u32 = 0x7f80_0000;
const MANTISSA_BITS: u32 = 23;
/// All of an f32's mantissa but its first bit.
const LOWER_MANTISSA: u32 = 0x003f_ffff;
/// The scale byte of 1.
const ONE: u8 = 127;

/// The block with the least squared error, of equally good scales the usual one, of
/// equally near codes the even one. Nothing overflows: values beyond the largest scale's
/// codes are clamped. A block with a value that is not finite becomes zeros.
pub fn quantize(values: &BlockValues) -> (Block, Rounding) {
    let not_finite = values.iter().filter(|value| !value.is_finite()).count() as u64;
    if not_finite > 0 {
        let rounding = Rounding { values: BLOCK, not_finite, ..Rounding::default() };
        return (Block { scale: ONE, codes: [0; BLOCK_LENGTH / 2] }, rounding);
    }
    if let Some(block) = exact(values) {
        let squares = sum_of_squares(&block);
        return (block, Rounding { values: BLOCK, squares, ..Rounding::default() });
    }
    // Under smaller scales too much is clamped, under larger ones codes are too coarse.
    let scale = usual_scale(values);
    let best = [scale, (scale + 1).min(LARGEST_SCALE), scale.saturating_sub(1)]
        .map(|scale| Rounded::new(values, scale))
        .into_iter()
        .reduce(|best, other| if other.error() < best.error() { other } else { best });
    let best = best.expect("three candidates");
    (best.block(), best.rounding(values))
}

/// The block that holds these values bit for bit, if there is one.
pub fn exact(values: &BlockValues) -> Option<Block> {
    // Fast path: E2M1 has one bit of mantissa.
    let is_longer = |value: &f32| value.is_normal() & (value.to_bits() & LOWER_MANTISSA != 0);
    if values.iter().fold(false, |any, value| any | is_longer(value)) {
        return None;
    }
    let rounded = Rounded::new(values, usual_scale(values));
    (rounded.changed(values) == 0).then(|| rounded.block())
}

/// The scale under which the largest magnitude is 4 to 8.
fn usual_scale(values: &BlockValues) -> u8 {
    match values.iter().map(|value| value.to_bits() & MAGNITUDE).max() {
        None | Some(0) => ONE,
        Some(largest) => (largest >> MANTISSA_BITS).saturating_sub(2) as u8,
    }
}

/// Values divided by a scale, and the nearest E2M1 value of each.
struct Rounded {
    scale: u8,
    scaled: BlockValues,
    nearest: BlockValues,
}

impl Rounded {
    fn new(values: &BlockValues, scale: u8) -> Self {
        let inverse = e8m0(254 - scale);
        let scaled = values.map(|value| value * inverse);
        Self { scale, scaled, nearest: scaled.map(nearest_e2m1) }
    }

    fn changed(&self, values: &BlockValues) -> u64 {
        let scale = e8m0(self.scale);
        let pairs = values.iter().zip(&self.nearest);
        let changed = pairs.map(|(value, nearest)| (nearest * scale).to_bits() != value.to_bits());
        changed.map(u32::from).sum::<u32>().into()
    }

    /// The squared error, in units that are the same for all scales.
    fn error(&self) -> f64 {
        let pairs = self.scaled.iter().zip(&self.nearest);
        let error: f64 = pairs.map(|(scaled, nearest)| f64::from(scaled - nearest).powi(2)).sum();
        error * 4f64.powi(self.scale.into())
    }

    fn block(&self) -> Block {
        let codes = self.nearest.map(|nearest| {
            let magnitude = nearest.to_bits() & MAGNITUDE;
            // From 1 on, the exponent and the first bit of the mantissa count the codes.
            let code = if magnitude >= 1f32.to_bits() {
                (magnitude >> (MANTISSA_BITS - 1)).wrapping_sub(0xfc)
            } else {
                u32::from(magnitude != 0)
            };
            (code | nearest.to_bits() >> 31 << 3) as u8
        });
        let codes = std::array::from_fn(|at| codes[2 * at] | codes[2 * at + 1] << 4);
        Block { scale: self.scale, codes }
    }

    fn rounding(&self, values: &BlockValues) -> Rounding {
        let scale = f64::from(e8m0(self.scale));
        // Not from `scaled`, where a value far below the scale is zero.
        let error =
            |(value, nearest): (&f32, &f32)| f64::from(*value) - f64::from(*nearest) * scale;
        Rounding {
            values: BLOCK,
            changed: self.changed(values),
            squares: f64::from(sum_in_lanes(&self.scaled, &self.scaled, |value, _| value * value))
                * scale.powi(2),
            error: values.iter().zip(&self.nearest).map(|pair| error(pair).powi(2)).sum(),
            ..Rounding::default()
        }
    }
}

/// The nearest of ±0, 0.5, 1, 1.5, 2, 3, 4 and 6, of two the even code.
fn nearest_e2m1(value: f32) -> f32 {
    let magnitude = value.abs();
    // Half the power of two at or below the magnitude, or 0.5.
    let step = f32::from_bits(magnitude.max(1.0).to_bits() & EXPONENT) / 2.0;
    // Adding this leaves no mantissa bits for less than a step.
    let shift = step * 1.5 * (1u32 << MANTISSA_BITS) as f32;
    ((magnitude + shift) - shift).min(6.0).copysign(value)
}
