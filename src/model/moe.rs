//! Mixture of experts with SwiGLU.
//!
//! A router picks the top k experts of each token; softmax over those k scores gives their
//! shares. An expert is `down(swiglu(gate_up(x)))` with
//! `gate = min(even columns, limit)`, `up = clamp(odd columns, ±limit)` and
//! `swiglu = gate · sigmoid(1.702·gate) · (up + 1)`. The block adds the sum of
//! share × expert to the residual stream.

use super::context::Context;
use super::linear::linear;
use super::norm::rms_norm;
use super::options::Target;
use super::{ort, portable};
use crate::checkpoint::MlpWeights;
use crate::error::Result;
use crate::graph::{Scope, Value};

/// Adds the experts to the residual stream `x [n, hidden]`; the second value is the router's
/// scores `[n, experts]`.
pub fn mlp_block(
    g: &mut Scope,
    x: Value,
    weights: &MlpWeights,
    context: &Context,
) -> Result<Vec<Value>> {
    g.block("mlp", "MLPBlock", &["x"], &[x], |g, inputs| {
        let (x, options) = (inputs[0], &context.options);
        let normed = rms_norm(g, "norm", x, &weights.norm, context.config)?;
        let scores = linear(g, "router", normed, &weights.router, context)?;
        let mut formats = [&weights.gate_up, &weights.down].map(|it| it.matrix.format).into_iter();
        let has_operator = formats.all(|format| ort::reads_experts(format, options));
        let is_ort = options.target == Target::Ort && has_operator;
        let experts = if is_ort { ort::experts } else { portable::experts };
        Ok(vec![experts(g, [x, normed, scores], weights, context)?, scores])
    })
}
