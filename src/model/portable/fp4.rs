//! An expert's dense layer on weights in 4-bit floats, in standard operators.
//!
//! `y = x · Wᵀ + b` with `W[o, i] = E2M1[code] · scale`, two codes a byte: the low nibble for even
//! `i`, the high one for odd. In MXFP4 32 values share a scale `2^(byte − 127)`, in NVFP4 16 share
//! `E4M3[byte] · global`.
//!
//! For a single row (`one`) `table[byte, i/2] = E2M1 pair · x pair` has the product of every possible
//! byte, so the dot product is a sum of look-ups, and no weight is decoded. For several (`many`) the even
//! and the odd columns of the matrix are decoded, and each half is multiplied with its half of `x`.

use super::decode::{fp8, gather_expert, look_up, nibbles};
use crate::checkpoint::ExpertWeights;
use crate::error::Result;
use crate::graph::{Constant, Dim, Fact, Scope, Value};
use crate::model::in_dtype;
use crate::tensor::{DType, mxfp4};
use crate::weights::MatrixFormat;

/// `x [n, in]` to `[n, out]`, in the dtype of `x`, with the weights of `expert`, an i64 of
/// rank 0. In f32 the graph switches by `is_one`, whether `n` is 1.
pub fn linear(
    g: &mut Scope,
    x: Value,
    weights: &ExpertWeights,
    expert: Value,
    is_one: Option<Value>,
) -> Result<Value> {
    let [blocks, scales] = weights.matrix.codes_and_scales();
    let blocks = gather_expert(g, "blocks", blocks, expert)?;
    let scales = gather_expert(g, "scales", scales, expert)?;
    let bias = gather_expert(g, "bias", &weights.bias, expert)?;
    let scales = if weights.matrix.format == MatrixFormat::Nvfp4 {
        let global = gather_expert(g, "global_scale", &weights.matrix.parts[2], expert)?;
        let scales = fp8(g, "scales", DType::F8E4M3, scales)?;
        g.mul("scales.global", scales, global)?
    } else {
        powers_of_two(&mut g.child("scales"), scales)?
    };
    let bias = in_dtype(g, "bias", bias, DType::F32)?;
    let expert = [blocks, scales, bias];
    let Some(is_one) = is_one else { return many_rows(g, x, expert) };
    let one = |g: &mut Scope| one_row(&mut g.child("one"), x, expert);
    g.if_else("", is_one, one, |g| many_rows(&mut g.child("many"), x, expert))
}

/// For several rows. An expert has blocks u8 `[out, groups, 16 or 8]`, scales f32 `[out, groups]`
/// and a bias f32 `[out]`.
fn many_rows(g: &mut Scope, x: Value, [blocks, scales, bias]: [Value; 3]) -> Result<Value> {
    let Fact { dtype, shape } = g.fact(x)?;
    let half = shape[1].known().expect("known") / 2;
    let pairs = g.reshape("x.pairs", x, [&shape[0], &half.into(), &2.into()])?;
    let [low, high] = nibbles(g, blocks)?;
    let even = half_matrix(g, "even", low, scales)?;
    let even = in_dtype(g, "even", even, dtype)?;
    let odd = half_matrix(g, "odd", high, scales)?;
    let odd = in_dtype(g, "odd", odd, dtype)?;
    let bias = in_dtype(g, "bias", bias, dtype)?;
    let x_even = g.gather_at("x.even", pairs, 0, 2)?;
    let x_odd = g.gather_at("x.odd", pairs, 1, 2)?;
    let sum = g.gemm("even.out", [x_even, even], Some(bias), true)?;
    g.gemm("out", [x_odd, odd], Some(sum), true)
}

/// The scaled values of codes `[out, groups, bytes]`: `[out, groups · bytes]`.
fn half_matrix(g: &mut Scope, name: &str, codes: Value, scales: Value) -> Result<Value> {
    let g = &mut g.child(name);
    let shape = g.fact(codes)?.shape;
    let e2m1 = &mut g.child("e2m1");
    let values = look_up(e2m1, "mxfp4.e2m1", &mxfp4::E2M1, codes, "shaped")?;
    let scales = g.unsqueeze("scales", scales, 2)?;
    let values = g.mul("values", values, scales)?;
    g.reshape("matrix", values, [shape[0].clone(), Dim::product(&shape[1..])])
}

/// For a single row.
fn one_row(g: &mut Scope, x: Value, [blocks, scales, bias]: [Value; 3]) -> Result<Value> {
    let row = g.fact(x)?;
    let half = row.shape[1].known().expect("known") / 2;
    let shape = g.fact(blocks)?.shape;
    let [out, groups, bytes] = &shape[..] else { unreachable!("blocks have rank 3") };
    // Not `Scope::reshape`: the symbols do not say that there is one row.
    let pairs = g.node("x.pairs", "Reshape").input(x).constant(&[half as i64, 2][..])?;
    let pairs = pairs.output(row.with_shape([half, 2]))?;
    // The two values of each byte.
    let codes: Vec<f32> = (0..=255).flat_map(mxfp4::pair).collect();
    let codes = g.table("mxfp4.pairs", Constant::from(&codes[..]).shaped([256, 2]))?;
    let table = g.gemm("table", [codes, pairs], None, true)?;
    let bytes_of_row = g.cast("codes", blocks, DType::I32)?;
    let bytes_of_row = g.reshape("codes.rows", bytes_of_row, [out, &(groups * bytes)])?;
    let products = g.gather_elements("products", table, bytes_of_row, 0)?;
    let products = g.reshape("products.groups", products, [out, groups, bytes])?;
    let sums = g.reduce_sum("sums", products, 2, false)?;
    let scaled = g.mul("sums.scaled", sums, scales)?;
    let sum = g.reduce_sum("sum", scaled, 1, false)?;
    let sum = g.add("sum.biased", sum, bias)?;
    g.unsqueeze("out", sum, 0)
}

/// `2^(scale − 127)` of scale bytes, as `2^low · 2^(16·high − 127)`: onnx's
/// ReferenceEvaluator looks up in tables of at most 64 entries. Scale 255, not
/// a number in the format, becomes infinity as in OpenAI's implementation.
fn powers_of_two(g: &mut Scope, scales: Value) -> Result<Value> {
    let [low, high] = nibbles(g, scales)?;
    let fine: [f32; 16] = std::array::from_fn(|bits| 2f32.powi(bits as i32));
    let coarse: [f32; 16] = std::array::from_fn(|bits| mxfp4::e8m0(16 * bits as u8));
    let fine = look_up(&mut g.child("fine"), "mxfp4.fine", &fine, low, "shaped")?;
    let coarse = look_up(&mut g.child("coarse"), "mxfp4.coarse", &coarse, high, "shaped")?;
    g.mul("f32", coarse, fine)
}
