//! Integers with a scale for each block of 32, in standard operators:
//! `(code − zero) · scale`.

use crate::error::Result;
use crate::graph::{Dim, Scope, Value};
use crate::model::portable::mxfp4::nibbles;
use crate::tensor::ints::Bits;
use crate::tensor::{DType, mxfp4};

/// Dequantizes codes u8 `[out, groups, 32 or 16]` with scales f32 `[out, groups]` to f32
/// `[out, groups · 32]`, by Cast, Sub and Mul: onnxruntime fuses DequantizeLinear with a
/// product into one with 8-bit activations.
pub fn from_integers(g: &mut Scope, bits: Bits, codes: Value, scales: Value) -> Result<Value> {
    let [out, groups] = [0, 1].map(|axis| g.fact(codes).map(|fact| fact.shape[axis].clone()));
    let (out, groups) = (out?, groups?);
    let codes = match bits {
        Bits::Eight => codes,
        Bits::Four => {
            let [low, high] = nibbles(g, codes)?;
            let low = g.unsqueeze("low.pairs", low, 3)?;
            let high = g.unsqueeze("high.pairs", high, 3)?;
            let pairs = g.concat("codes.pairs", &[low, high], 3)?;
            g.reshape("codes.each", pairs, [&out, &groups, &Dim::from(mxfp4::BLOCK)])?
        }
    };
    let whole = g.cast("codes.f32", codes, DType::F32)?;
    let zero = g.constant(f32::from(bits.zero()))?;
    let whole = g.sub("whole", whole, zero)?;
    let scales = g.unsqueeze("scales.blocks", scales, 2)?;
    let numbers = g.mul("numbers", whole, scales)?;
    g.reshape("matrix", numbers, [&out, &(&groups * &Dim::from(mxfp4::BLOCK))])
}
