//! The experts as ONNX Runtime's QMoE, which reads MXFP4 as it is stored.

use crate::checkpoint::{Config, ExpertWeights, MlpWeights};
use crate::graph::{Constant, Fact, MICROSOFT, Result, Scope, Value};
use crate::model::float;
use crate::model::moe::ALPHA;
use crate::tensor::{DType, mxfp4};
use crate::weights::ExpertMatrix;

/// `x [n, hidden]` with the experts' part of `normed [n, hidden]` added, by the
/// router's `scores [n, experts]`.
pub fn experts(
    g: &mut Scope,
    x: Value,
    normed: Value,
    scores: Value,
    weights: &MlpWeights,
    config: &Config,
) -> Result<Value> {
    let gate_up = expert_inputs(g, "gate_up", &weights.gate_up)?;
    let down = expert_inputs(g, "down", &weights.down)?;
    // NVFP4 has a scale for each expert besides; the operator wants it in MXFP4 too.
    let [count, ..] = weights.gate_up.matrix.sizes();
    let ones = vec![1f32; count as usize];
    let ones = g.table(&format!("ones.{count}"), Constant::from(&ones[..]))?;
    let fact = g.fact(x)?;
    let out = g
        .node("experts", "QMoE")
        .domain(MICROSOFT)
        .inputs([normed, scores])
        .inputs(gate_up)
        .inputs(down)
        // A third matrix, which SwiGLU's two in one make needless, zero points
        // and weights of the router.
        .absent(7)
        .inputs([ones, ones])
        .attr("k", config.experts_per_token as i64)
        .attr("normalize_routing_weights", 1)
        .attr("activation_type", "swiglu")
        // Gate and up are interleaved.
        .attr("swiglu_fusion", 1)
        .attr("activation_alpha", ALPHA)
        .attr("activation_beta", 1f32)
        .attr("swiglu_limit", config.swiglu_limit as f32)
        .attr("quant_type", "fp4")
        .attr("expert_weight_bits", 4)
        .attr("block_size", mxfp4::BLOCK as i64)
        // Rows of packed codes as they are stored; without it the operator
        // expects another order, which its CPU kernel does not have.
        .attr("weights_prepacked", 1)
        .output(fact)?;
    g.add("residual", x, out)
}

/// Codes u8 `[experts, out, in/2]`, scales f8e8m0 `[experts, out, in/32]` and
/// bias f32 `[experts, out]` of one of the two matrices.
fn expert_inputs(g: &mut Scope, name: &str, weights: &ExpertWeights) -> Result<[Value; 3]> {
    let ExpertMatrix::Mxfp4 { blocks, scales } = &weights.matrix else {
        unreachable!("QMoE is for MXFP4")
    };
    let [experts, out, groups] = [0, 1, 2].map(|axis| scales.shape[axis]);
    let codes = Fact::new(DType::U8, [experts, out, groups * mxfp4::BLOCK / 2]);
    let codes = g.weight(&blocks.name, codes, &blocks.name, 0..blocks.bytes())?;
    let fact = Fact::new(DType::F8E8M0, [experts, out, groups]);
    let scales = g.weight(&scales.name, fact, &scales.name, 0..scales.bytes())?;
    Ok([codes, scales, float(g, &format!("{name}.bias"), &weights.bias)?])
}
