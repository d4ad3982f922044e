//! What adapters change in a matrix, beside what is computed with its stored values: some rows
//! have other values, and then terms of low rank are added, `W·x + s · (B·(A·x) + bias)`.
//!
//! Factors and biases are constants: runtimes fold the nodes that only they go through. Where a runtime
//! may add a term, `W·x + B·(A·x)`, A and B are optional inputs of the model.

use super::{float, in_dtype};
use crate::error::Result;
use crate::graph::{Dim, Fact, Scope, Value};
use crate::tensor::DType;
use crate::weights::{Changes, Factor, FactorAxes, LowRank, NewRows, Rows, Slot};

/// `y [n, out]`, a product with `x [n, in]` in the dtype of both, with the changes of its matrix;
/// of experts with those of `expert`, an i64 of rank 0.
pub fn change_product(
    g: &mut Scope,
    mut y: Value,
    x: Value,
    changes: &Changes,
    expert: Option<Value>,
) -> Result<Value> {
    let dtype = g.fact(x)?.dtype;
    for (at, NewRows { places, weight }) in changes.rows.iter().enumerate() {
        let g = &mut g.child(&numbered("new", at));
        let rows = float(g, "rows", weight, dtype)?;
        let columns = g.gemm("columns", [x, rows], None, true)?;
        let places = indices(g, places)?;
        let places = g.unsqueeze("places", places, 0)?;
        let places = g.expand_like("places.of_each", places, columns)?;
        y = g.scatter_elements("", [y, places, columns], 1)?;
    }
    for (at, term) in changes.terms.iter().enumerate() {
        let g = &mut g.child(&numbered("lora", at));
        y = add_term(g, y, x, term, expert)?;
    }
    let Some(slot) = &changes.slot else { return Ok(y) };
    let g = &mut g.child("lora");
    let [a, b] = inputs(g, slot)?;
    let [a, b] = [("a", a), ("b", b)].map(|(name, it)| chosen(g, name, it, expert, 2, dtype));
    let low = g.gemm("low", [x, a?], None, true)?;
    g.gemm("", [low, b?], Some(y), true)
}

/// The factors of a slot: A f32 `[r, in]` and B f32 `[out, r]`, with experts as the first axis. Each
/// slot has a rank of its own.
fn inputs(g: &mut Scope, slot: &Slot) -> Result<[Value; 2]> {
    let Slot { matrix, experts, out, inn } = slot;
    let rank = Dim::symbol(format!("{matrix}.rank"));
    let mut input = |name, sides: [Dim; 2]| {
        let shape = experts.iter().map(|count| Dim::from(*count)).chain(sides);
        g.optional_input(name, Fact::new(DType::F32, shape))
    };
    let [a, b] = slot.names();
    Ok([input(a, [rank.clone(), (*inn).into()])?, input(b, [(*out).into(), rank])?])
}

/// Whether a runtime adds a term to one of these matrices: a bool of rank 0.
pub fn has_terms(g: &mut Scope, changes: [&Changes; 2]) -> Result<Value> {
    let slots = changes.into_iter().flat_map(|it| &it.slot);
    let mut numbers = Vec::new();
    for (at, slot) in slots.enumerate() {
        let [a, _] = inputs(g, slot)?;
        numbers.push(g.element_count(&numbered("numbers", at), a)?);
    }
    let all = match numbers[..] {
        [one] => one,
        [one, other] => g.add("numbers.all", one, other)?,
        _ => unreachable!("one of the matrices has a slot"),
    };
    g.cast("", all, DType::Bool)
}

/// `y + s · (B·(A·x) + bias)`
fn add_term(
    g: &mut Scope,
    y: Value,
    x: Value,
    LowRank { rows, scale, a, b, bias, .. }: &LowRank,
    expert: Option<Value>,
) -> Result<Value> {
    let (dtype, scale) = (g.fact(x)?.dtype, *scale as f32);
    let a = g.outside_bodies(|g| factor(g, "a", a, FactorAxes::RankWidth))?;
    let a = chosen(g, "a", a, expert, 2, dtype)?;
    let b = g.outside_bodies(|g| {
        let b = factor(g, "b", b, FactorAxes::WidthRank)?;
        let rank = g.fact(b)?.rank();
        spread(g, "b", b, *rows, rank - 2)
    })?;
    let b = chosen(g, "b", b, expert, 2, dtype)?;
    let low = g.gemm("low", [x, a], None, true)?;
    let Some(bias) = bias else { return g.scaled_gemm("", [low, b], Some(y), true, [scale, 1.0]) };
    let bias = g.outside_bodies(|g| {
        let values = float(g, "bias", bias, DType::F32)?;
        spread(g, "bias", values, *rows, bias.shape.len() - 1)
    })?;
    let bias = chosen(g, "bias", bias, expert, 1, dtype)?;
    let term = g.scaled_gemm("term", [low, b], Some(bias), true, [scale; 2])?;
    g.add("", y, term)
}

/// `x [n, hidden]`, rows of a table for these tokens i64 `[n]`, with the changes of the table.
pub fn change_rows(g: &mut Scope, mut x: Value, tokens: Value, changes: &Changes) -> Result<Value> {
    for (at, NewRows { places, weight }) in changes.rows.iter().enumerate() {
        let g = &mut g.child(&numbered("new", at));
        let rows = float(g, "rows", weight, DType::F32)?;
        let (places, tokens) = (indices(g, places)?, g.unsqueeze("tokens", tokens, 1)?);
        let matches = g.equal("matches", tokens, places)?;
        let matches = g.cast("matches.f32", matches, DType::F32)?;
        let chosen = g.gemm("chosen", [matches, rows], None, false)?;
        let count = g.reduce_sum("count", matches, 1, true)?;
        let is_new = g.cast("is_new", count, DType::Bool)?;
        x = g.select("", is_new, chosen, x)?;
    }
    for (at, LowRank { a, b, scale, .. }) in changes.terms.iter().enumerate() {
        let g = &mut g.child(&numbered("lora", at));
        let [a, b] =
            [("a", a), ("b", b)].map(|(name, it)| factor(g, name, it, FactorAxes::WidthRank));
        let low = g.gather("low", b?, tokens, 0)?;
        x = g.scaled_gemm("", [low, a?], Some(x), true, [*scale as f32, 1.0])?;
    }
    let Some(slot) = &changes.slot else { return Ok(x) };
    let g = &mut g.child("lora");
    let [a, b] = inputs(g, slot)?;
    let low = g.gather("low", b, tokens, 0)?;
    g.gemm("", [low, a], Some(x), false)
}

/// The name of the change of an adapter, of which there may be several.
fn numbered(name: &str, at: usize) -> String {
    if at == 0 { name.to_owned() } else { format!("{name}_{}", at + 1) }
}

fn indices(g: &mut Scope, places: &[u64]) -> Result<Value> {
    let places: Vec<i64> = places.iter().map(|place| *place as i64).collect();
    g.constant(&places[..])
}

/// A factor in f32 with axes in this order, experts first.
fn factor(g: &mut Scope, name: &str, factor: &Factor, wanted: FactorAxes) -> Result<Value> {
    use FactorAxes::{RankWidth, WidthRank, WidthRankExperts};
    let Factor { weight, axes } = factor;
    let value = float(g, name, weight, DType::F32)?;
    let order: &[usize] = match (axes, wanted, weight.shape.len()) {
        _ if *axes == wanted => return Ok(value),
        (WidthRankExperts, RankWidth, _) => &[2, 1, 0],
        (WidthRankExperts, _, _) => &[2, 0, 1],
        (RankWidth | WidthRank, _, 3) => &[0, 2, 1],
        (RankWidth | WidthRank, ..) => &[1, 0],
    };
    g.transpose(&format!("{name}.ordered"), value, order)
}

/// Values for some rows of a matrix as values for all, along an axis: zeros for the others.
fn spread(g: &mut Scope, name: &str, values: Value, rows: Rows, axis: usize) -> Result<Value> {
    let zeros = match rows {
        Rows::All => return Ok(values),
        Rows::Even => [0, 1],
        Rows::Odd => [1, 0],
    };
    let mut shape = g.fact(values)?.shape;
    shape[axis] = &shape[axis] * &2.into();
    let pairs = g.unsqueeze(&format!("{name}.column"), values, axis + 1)?;
    let pairs = g.pad(&format!("{name}.pairs"), pairs, axis + 1, zeros)?;
    g.reshape(&format!("{name}.all"), pairs, shape)
}

/// The part of an expert, of this rank, in a dtype. All experts share values that have no axis
/// more.
fn chosen(
    g: &mut Scope,
    name: &str,
    values: Value,
    expert: Option<Value>,
    rank: usize,
    dtype: DType,
) -> Result<Value> {
    let values = g.outside_bodies(|g| in_dtype(g, name, values, dtype))?;
    let has_experts = g.fact(values)?.rank() > rank;
    let Some(expert) = expert.filter(|_| has_experts) else { return Ok(values) };
    g.gather(&format!("{name}.chosen"), values, expert, 0)
}
