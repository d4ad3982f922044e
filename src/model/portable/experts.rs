//! The experts as a Loop over those that some token uses. Their weights are gathered by an
//! index that depends on the input, so no runtime expands them at load time.

use super::{decoded, mxfp4};
use crate::checkpoint::{ExpertWeights, MlpWeights};
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::model::context::Context;
use crate::model::in_dtype;
use crate::model::swiglu::swiglu;
use crate::tensor::DType;
use crate::weights::MatrixFormat;

/// Adds the experts' outputs for `normed [n, hidden]` to `x [n, hidden]`, by the router's
/// `scores [n, experts]`.
pub fn experts(
    g: &mut Scope,
    x: Value,
    normed: Value,
    scores: Value,
    weights: &MlpWeights,
    context: &Context,
) -> Result<Value> {
    let config = context.config;
    let normed = in_dtype(g, "norm", normed, context.compute)?;
    let [scores, chosen] = g.top_k("chosen", scores, config.experts_per_token)?;
    let shares = g.softmax("shares", scores)?;
    let active = g.unique("active", chosen)?;
    let count = g.element_count("active.count", active)?;
    g.for_each("experts", count, ("residual", x), |g, turn, residual| {
        let expert = g.gather("expert", active, turn, 0)?;
        // Pairs of a token and the index of the choice among its k.
        let here = g.equal("chosen_here", chosen, expert)?;
        let uses = g.non_zero("uses", here)?;
        let tokens = g.gather_at("tokens", uses, 0, 0)?;
        let uses = g.transpose("uses.pairs", uses, &[1, 0])?;
        let share = g.gather_pairs("share", shares, uses)?;
        let share = g.unsqueeze("share.column", share, 1)?;

        let input = g.gather("input", normed, tokens, 0)?;
        let is_one = match weights.gate_up.matrix.format {
            MatrixFormat::Mxfp4 if context.compute == DType::F32 => {
                let (count, one) = (g.element_count("tokens.count", tokens)?, g.constant(1i64)?);
                Some(g.equal("tokens.is_one", count, one)?)
            }
            _ => None,
        };
        let turn = ExpertIteration { expert, is_one };
        let hidden = turn.linear(&mut g.child("gate_up"), input, &weights.gate_up)?;
        let hidden = swiglu(g, hidden, config)?;
        let hidden = in_dtype(g, "swiglu", hidden, context.compute)?;
        let output = turn.linear(&mut g.child("down"), hidden, &weights.down)?;
        let output = in_dtype(g, "down", output, DType::F32)?;
        let output = g.mul("output", output, share)?;
        g.add_to_rows("sum", residual, tokens, output)
    })
}

/// An iteration of the Loop.
struct ExpertIteration {
    /// The expert, i64 of rank 0.
    expert: Value,
    /// Whether a single token uses it: MXFP4 in f32 has a faster form then.
    is_one: Option<Value>,
}

impl ExpertIteration {
    /// `x [n, in]` to `[n, out]`.
    fn linear(&self, g: &mut Scope, x: Value, weights: &ExpertWeights) -> Result<Value> {
        let ExpertWeights { matrix, bias } = weights;
        if matrix.format == MatrixFormat::Mxfp4 {
            let [blocks, scales] = matrix.codes_and_scales();
            return mxfp4::linear(g, x, [blocks, scales, bias], self.expert, self.is_one);
        }
        decoded::linear(g, x, matrix, bias, self.expert)
    }
}
