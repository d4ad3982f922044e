//! Mixture of experts with SwiGLU.
//!
//! A router picks the top k experts of each token; softmax over those k scores
//! alone gives their shares. An expert is `down(swiglu(gate_up(x)))` with
//! `gate = min(even columns, limit)`, `up = clamp(odd columns, ±limit)` and
//! `swiglu = gate · sigmoid(1.702·gate) · (up + 1)`. The block adds the sum of
//! share × expert to the residual stream.

use super::decoder::Context;
use super::linear::linear;
use super::mxfp4::expert_linear;
use super::norm::rms_norm;
use crate::checkpoint::{Config, MlpWeights};
use crate::graph::{Result, Scope, Value};

/// How steep SwiGLU's sigmoid is.
const ALPHA: f32 = 1.702;

/// `x [n, hidden]`, the residual stream, with the experts' part added.
///
/// A Loop runs over the experts that some token uses. What it gathers of an
/// expert depends on the input, so experts stay as small as they are stored.
pub fn mlp_block(
    g: &mut Scope,
    x: Value,
    weights: &MlpWeights,
    context: &Context,
) -> Result<Value> {
    let [x] = g.block("mlp", "MLPBlock", [("x", x)], |g, [x]| {
        let config = context.config;
        let normed = rms_norm(g, "norm", x, &weights.norm, config)?;
        let scores = linear(g, "router", normed, &weights.router)?;
        let [scores, chosen] = g.top_k("chosen", scores, config.experts_per_token)?;
        let shares = g.softmax("shares", scores)?;
        let active = g.unique("active", chosen)?;
        let count = g.element_count("active.count", active)?;
        let x = g.for_each("experts", count, ("residual", x), |g, turn, residual| {
            let expert = g.gather("expert", active, turn, 0)?;
            // Where this expert is chosen: the token, and which of its k choices.
            let here = g.equal("chosen_here", chosen, expert)?;
            let uses = g.non_zero("uses", here)?;
            let tokens = g.pick("tokens", uses, 0, 0)?;
            let uses = g.transpose("uses.pairs", uses, [1, 0])?;
            let share = g.gather_pairs("share", shares, uses)?;
            let share = g.unsqueeze("share.column", share, 1)?;

            let input = g.gather("input", normed, tokens, 0)?;
            let (count, one) = (g.element_count("tokens.count", tokens)?, g.constant(1i64)?);
            let is_one = g.equal("tokens.is_one", count, one)?;
            let hidden = expert_linear(g, "gate_up", input, &weights.gate_up, [expert, is_one])?;
            let hidden = swiglu(g, hidden, config)?;
            let output = expert_linear(g, "down", hidden, &weights.down, [expert, is_one])?;
            let output = g.mul("output", output, share)?;
            g.add_to_rows("sum", residual, tokens, output)
        })?;
        Ok([x])
    })?;
    Ok(x)
}

/// `x [n, 2·intermediate]`, gate and up in turn, to `[n, intermediate]`.
fn swiglu(g: &mut Scope, x: Value, config: &Config) -> Result<Value> {
    let g = &mut g.child("swiglu");
    let rows = g.fact(x)?.shape[0].clone();
    let pairs = g.reshape("pairs", x, [rows, config.intermediate_size.into(), 2.into()])?;
    let (gate, up) = (g.pick("gate", pairs, 0, 2)?, g.pick("up", pairs, 1, 2)?);
    let limit = config.swiglu_limit as f32;
    let most = g.constant(limit)?;
    let gate = g.min("gate.limited", gate, most)?;
    let up = g.clip("up.limited", up, -limit, limit)?;
    let (alpha, one) = (g.constant(ALPHA)?, g.constant(1f32)?);
    let steep = g.mul("gate.steep", gate, alpha)?;
    let open = g.sigmoid("gate.open", steep)?;
    let gate = g.mul("gate.swish", gate, open)?;
    let up = g.add("up.shifted", up, one)?;
    g.mul("", gate, up)
}
