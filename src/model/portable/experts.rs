//! The experts as a Loop over those that some token uses. Their weights are gathered by an
//! index that depends on the input, so no runtime expands them at load time.

use super::decode::{decoded, gather_expert};
use super::fp4;
use crate::checkpoint::{Config, ExpertWeights, MlpWeights};
use crate::error::Result;
use crate::graph::{Dim, Scope, Value};
use crate::model::changes::change_product;
use crate::model::context::Context;
use crate::model::{SWIGLU_ALPHA, in_dtype};
use crate::tensor::DType;
use crate::weights::{MatrixFormat, Weight};

/// Adds the experts' outputs for `normed [n, hidden]` to `x [n, hidden]`, by the router's
/// `scores [n, experts]`.
pub fn experts(
    g: &mut Scope,
    [x, normed, scores]: [Value; 3],
    weights: &MlpWeights,
    context: &Context,
) -> Result<Value> {
    let Context { config, options, .. } = context;
    let normed = in_dtype(g, "norm", normed, options.compute)?;
    let [best, chosen] = g.top_k("chosen", scores, config.experts_per_token)?;
    let shares = g.softmax("shares", best)?;
    let [active, count] = active_experts(g, scores, chosen)?;
    g.for_each("experts", count, ("residual", x), |g, turn, residual| {
        let expert = g.gather("expert", active, turn, 0)?;
        // Pairs of a token and the index of the choice among its k.
        let here = g.equal("chosen_here", chosen, expert)?;
        let uses = g.non_zero("uses", here)?;
        let tokens = g.gather_at("tokens", uses, 0, 0)?;
        let uses = g.transpose("uses.pairs", uses, &[1, 0])?;
        let share = g.gather_nd("share", shares, uses, 0)?;
        let share = g.unsqueeze("share.column", share, 1)?;

        let input = g.gather("input", normed, tokens, 0)?;
        let mut matrices = [&weights.gate_up, &weights.down].into_iter();
        let has_fp4 = matrices.any(|it| it.matrix.format.is_fp4());
        let is_one = (has_fp4 && options.compute == DType::F32).then(|| {
            let (count, one) = (g.element_count("tokens.count", tokens)?, g.constant(1i64)?);
            g.equal("tokens.is_one", count, one)
        });
        let is_one = is_one.transpose()?;
        let hidden = linear(g, "gate_up", input, &weights.gate_up, expert, is_one)?;
        let hidden = swiglu(g, hidden, config)?;
        let hidden = in_dtype(g, "swiglu", hidden, options.compute)?;
        let output = linear(g, "down", hidden, &weights.down, expert, is_one)?;
        let output = in_dtype(g, "down", output, DType::F32)?;
        let output = g.mul("output", output, share)?;
        g.add_to_rows("sum", [residual, tokens, output])
    })
}

/// For `scores [n, experts]` and `chosen [n, k]` the indices of all experts i64 `[experts]`, those
/// that are chosen first and ascending, and how many these are, an i64 of rank 0.
///
/// Not by Unique: OpenVINO 2026.4 lets a Loop read a value whose size depends on data from where
/// an earlier run left it.
fn active_experts(g: &mut Scope, scores: Value, chosen: Value) -> Result<[Value; 2]> {
    let g = &mut g.child("active");
    let experts = g.fact(scores)?.shape[1].known().expect("a model's own size");
    let chosen = g.reshape("chosen", chosen, [Dim::product(&g.fact(chosen)?.shape)])?;
    // From `experts` for the first expert to 1 for the last; 0 for one that is not chosen.
    let all = g.constant(experts as i64)?;
    let ranks = g.sub("ranks.chosen", all, chosen)?;
    let none = g.table(&format!("experts.{experts}.none"), &vec![0i64; experts as usize][..])?;
    let ranks = g.scatter_elements("ranks", [none, chosen, ranks], 0)?;
    let order = g.top_k("", ranks, experts)?[1];
    let one = g.constant(1i64)?;
    let is_active = g.min("is_active", ranks, one)?;
    Ok([order, g.reduce_sum("count", is_active, 0, false)?])
}

/// SwiGLU of `x [n, 2·intermediate]`, gate and up interleaved: `[n, intermediate]`, in f32.
fn swiglu(g: &mut Scope, x: Value, config: &Config) -> Result<Value> {
    let g = &mut g.child("swiglu");
    let x = in_dtype(g, "x", x, DType::F32)?;
    let rows = g.fact(x)?.shape[0].clone();
    let pairs = g.reshape("pairs", x, [rows, config.intermediate_size.into(), 2.into()])?;
    let (gate, up) = (g.gather_at("gate", pairs, 0, 2)?, g.gather_at("up", pairs, 1, 2)?);
    let limit = config.swiglu_limit as f32;
    let most = g.constant(limit)?;
    let gate = g.min("gate.limited", gate, most)?;
    let up = g.clip("up.limited", up, -limit, limit)?;
    let (alpha, one) = (g.constant(SWIGLU_ALPHA)?, g.constant(1f32)?);
    let steep = g.mul("gate.steep", gate, alpha)?;
    let open = g.sigmoid("gate.open", steep)?;
    let gate = g.mul("gate.swish", gate, open)?;
    let up = g.add("up.shifted", up, one)?;
    g.mul("", gate, up)
}

/// `x [n, in]` to `[n, out]`, in the dtype of `x`, with the weights of `expert`, an i64 of rank 0.
/// `is_one` is whether `n` is 1, for which 4-bit floats in f32 have a faster form.
fn linear(
    g: &mut Scope,
    name: &str,
    x: Value,
    weights: &ExpertWeights,
    expert: Value,
    is_one: Option<Value>,
) -> Result<Value> {
    let g = &mut g.child(name);
    let product = if weights.matrix.format.is_fp4() {
        fp4::linear(g, x, weights, expert, is_one)
    } else {
        floats(g, x, weights, expert)
    };
    change_product(g, product?, x, &weights.changes, Some(expert))
}

/// The product with a matrix in another format.
fn floats(g: &mut Scope, x: Value, weights: &ExpertWeights, expert: Value) -> Result<Value> {
    let dtype = g.fact(x)?.dtype;
    let read = |g: &mut Scope, name: &str, weight: &Weight| gather_expert(g, name, weight, expert);
    let weight = decoded(g, &weights.matrix, dtype, read)?;
    let bias = gather_expert(g, "bias", &weights.bias, expert)?;
    let bias = in_dtype(g, "bias", bias, dtype)?;
    let trans_b = !matches!(weights.matrix.format, MatrixFormat::FloatTransposed(_));
    g.gemm("", [x, weight], Some(bias), trans_b)
}
