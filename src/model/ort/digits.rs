//! Dense layers with weights in two int8 digits, `W = s · (256·high + low)` with a power of two `s` for
//! each row: nearly all values of BF16, exactly.
//!
//! Decode is as fast as memory is read, so for few tokens the digits are multiplied as they are stored.
//! A row of activations becomes digits too, `x = t · Σⱼ dⱼ / 126ʲ` with `t = max|x| / 63` and
//! `|d| ≤ 63`. Sums of their products are exact in i32, and
//! `W·x = s·t · Σⱼ (256·high·dⱼ + low·dⱼ) / 126ʲ`. For many tokens, blocks of rows of W become f32, one
//! after the other.

use crate::error::Result;
use crate::graph::{Constant, Dim, Fact, MICROSOFT, Scope, Value};
use crate::model::{in_dtype, row_ranges, stored, stored_rows};
use crate::tensor::DType;
use crate::tensor::ints::BASE;
use crate::weights::{Matrix, Weight};

/// The largest number of tokens whose products are those of digits.
const MOST_TOKENS: u64 = 64;
/// Rows that become f32 at once: they fit the processor's cache.
const BLOCK_ROWS: u64 = 256;
/// Most digits of a product. onnxruntime rearranges those of each product when it loads the model, and
/// keeps a buffer of the largest size.
const LARGEST_PART: u64 = 64 << 20;

/// The number of digits of activations, and the largest one: 21 bits. x86 processors without VNNI add
/// two products in 16 bits, which digits of 7 bits keep within range.
const DIGITS: u64 = 3;
const LARGEST: f32 = 63.0;
/// What a digit of activations counts for in units of the next.
const STEP: f32 = 2.0 * LARGEST;
/// The code of the digit 0.
const ZERO: u8 = 64;

/// `x [n, in]` to `[n, out]`, in the dtype of `x`, by matrices one above the other.
pub fn linear(g: &mut Scope, x: Value, matrices: &[&Matrix]) -> Result<Value> {
    let dtype = g.fact(x)?.dtype;
    let x = in_dtype(g, "x", x, DType::F32)?;
    let size = g.element_count("x.size", x)?;
    let most = g.constant((MOST_TOKENS * matrices[0].inn) as i64)?;
    let are_few = g.greater_or_equal("are_few", most, size)?;
    let y = g.if_else(
        "product",
        are_few,
        |g| few_tokens(&mut g.child("few"), x, matrices),
        |g| each(&mut g.child("many"), "", matrices, |g, matrix| many_tokens(g, x, matrix)),
    )?;
    let scales = each(g, "scales", matrices, |g, matrix| stored(g, matrix.digits_and_scales()[2]))?;
    let y = g.mul("product.scaled", y, scales)?;
    in_dtype(g, "product.scaled", y, dtype)
}

/// Concatenates what `wire` makes of each part along the last axis. The result of a single part keeps
/// its own name.
fn each<Part>(
    g: &mut Scope,
    name: &str,
    parts: &[Part],
    mut wire: impl FnMut(&mut Scope, &Part) -> Result<Value>,
) -> Result<Value> {
    if let [part] = parts {
        return wire(g, part);
    }
    let values = parts.iter().enumerate();
    let values = values.map(|(at, part)| wire(&mut g.child(&format!("part_{at}")), part));
    let values = values.collect::<Result<Vec<_>>>()?;
    let last = g.fact(values[0])?.rank() - 1;
    g.concat(name, &values, last)
}

/// `x · (256·high + low)ᵀ`, by products of digits.
fn few_tokens(g: &mut Scope, x: Value, matrices: &[&Matrix]) -> Result<Value> {
    let [n, inn] = <[Dim; 2]>::try_from(g.fact(x)?.shape).expect("rows");
    let (units, codes) = digits(g, x)?;
    let count = Dim::from(DIGITS);
    let codes = g.reshape("digits.rows", codes, [&(&n * &count), &inn])?;
    let mut parts = Vec::new();
    for matrix in matrices {
        let ranges = row_ranges(matrix.out, LARGEST_PART / matrix.inn);
        parts.extend(ranges.map(|rows| (*matrix, rows)));
    }
    let products = each(g, "products", &parts, |g, (matrix, rows)| {
        let [high, low] =
            [0, 1].map(|at| stored_rows(g, matrix.digits_and_scales()[at], rows.clone()));
        let high = product(g, "high", codes, high?, BASE)?;
        let low = product(g, "low", codes, low?, 1.0)?;
        g.add("high_and_low", high, low)
    })?;
    let out = g.fact(products)?.shape[1].clone();
    let products = g.reshape("products.by_digit", products, [&n, &count, &out])?;
    let units = g.reshape("units.row", units, [&n, &1.into(), &count])?;
    let y = g.matmul("sum", [units, products])?;
    g.reshape("", y, [&n, &out])
}

/// `factor · d · wᵀ` for digits of activations, codes u8 `[n, in]`, and of weights, i8
/// `[out, in]`: f32 `[n, out]`.
fn product(g: &mut Scope, name: &str, digits: Value, weight: Value, factor: f32) -> Result<Value> {
    let codes = g.fact(digits)?;
    let shape = [codes.shape[0].clone(), g.fact(weight)?.shape[0].clone()];
    g.node(name, "QGemm")
        .domain(MICROSOFT)
        .input(digits)
        .constant(factor)?
        .constant(ZERO)?
        .input(weight)
        .constant(1f32)?
        .constant(0i8)?
        .attr("transB", 1)
        .output(codes.with_dtype(DType::F32).with_shape(shape))
}

/// Rows `[n, in]` as units f32 `[n, 3, 1]` and digits `[n, 3, in]`, codes u8.
///
/// A digit is `round(x / unit)` minus 126 times the same in the unit before. All are whole numbers below
/// 2²⁰, so f32 is exact.
fn digits(g: &mut Scope, x: Value) -> Result<(Value, Value)> {
    let x = g.unsqueeze("x.row", x, 1)?;
    let largest = g.abs("x.abs", x)?;
    let largest = g.reduce_max("x.largest", largest, 2)?;
    // All units are normal numbers.
    let least = g.constant(2f32.powi(-100))?;
    let largest = g.max("x.largest.positive", largest, least)?;
    let units = [1.0, STEP, STEP * STEP].map(|steps| 1.0 / (LARGEST * steps));
    let units = g.constant(Constant::from(&units[..]).shaped([DIGITS, 1]))?;
    let units = g.mul("units", largest, units)?;
    let x = g.div("x.in_units", x, units)?;
    let whole = g.round("x.whole", x)?;
    let differences = [[1.0, 0.0, 0.0], [-STEP, 1.0, 0.0], [0.0, -STEP, 1.0]];
    let differences = Constant::from(differences.as_flattened()).shaped([DIGITS; 2]);
    let differences = g.constant(differences)?;
    let digits = g.matmul("digits", [differences, whole])?;
    Ok((units, g.to_u8("digits.codes", digits, ZERO)?))
}

/// `x · (256·high + low)ᵀ`, by blocks of rows in f32.
fn many_tokens(g: &mut Scope, x: Value, matrix: &Matrix) -> Result<Value> {
    let Matrix { out, inn, .. } = *matrix;
    let [high, low, _] = matrix.digits_and_scales();
    let rows = out.div_ceil(out.div_ceil(BLOCK_ROWS));
    let blocks = out / rows;
    let block = |g: &mut Scope, digits: [Value; 2]| {
        let [high, low] = digits;
        let high = g.dequantize("high.f32", high, BASE)?;
        let low = g.dequantize("low.f32", low, 1.0)?;
        let weight = g.add("weight", high, low)?;
        g.gemm("", [x, weight], None, true)
    };
    let mut in_blocks = |weight: &Weight| {
        let fact = Fact::new(DType::I8, [blocks, rows, inn]);
        let name = format!("{}.blocks", weight.name);
        g.weight(&name, fact, &weight.name, 0..blocks * rows * inn)
    };
    let parts = [("high", in_blocks(high)?), ("low", in_blocks(low)?)];
    let y = g.for_each_part("blocks", parts, |g, digits| block(&mut g.child("block"), digits))?;
    let n = g.fact(x)?.shape[0].clone();
    let y = g.reshape("blocks.joined", y, [&n, &Dim::from(blocks * rows)])?;
    if blocks * rows == out {
        return Ok(y);
    }
    let [high, low] = [high, low].map(|weight| stored_rows(g, weight, blocks * rows..out));
    let rest = block(&mut g.child("last"), [high?, low?])?;
    g.concat("", &[y, rest], 1)
}
