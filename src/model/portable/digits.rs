//! Products of digits in standard operators.

use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;

/// The product by MatMulInteger, whose weights are `[in, out]`.
pub fn product_with_digits(
    g: &mut Scope,
    digits: Value,
    zero: u8,
    weight: Value,
    factor: f32,
) -> Result<Value> {
    let weight = g.outside_bodies(|g| g.transpose("transposed", weight, &[1, 0]))?;
    let sums = g.matmul_integer("sums", digits, weight, zero)?;
    let sums = g.cast("sums.f32", sums, DType::F32)?;
    let factor = g.constant(factor)?;
    g.mul("", sums, factor)
}
