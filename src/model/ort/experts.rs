//! The experts as ONNX Runtime's QMoE, which reads stored MXFP4 and integers, or as its MoE,
//! which reads floats.

use crate::checkpoint::{Config, ExpertWeights, MlpWeights};
use crate::error::Result;
use crate::graph::{Fact, MICROSOFT, NodeBuilder, Scope, Value};
use crate::model::context::Context;
use crate::model::ort::linear::accuracy_level;
use crate::model::swiglu::ALPHA;
use crate::model::{GraphOptions, Provider, float, in_dtype, stored};
use crate::tensor::{DType, mxfp4};
use crate::weights::{MatrixFormat, Weight};

/// Whether an operator reads the experts' format. MoE reads floats of its compute dtype.
pub fn has_experts(weights: &MlpWeights, options: &GraphOptions) -> bool {
    let formats = [&weights.gate_up, &weights.down].map(|experts| experts.matrix.format);
    formats.into_iter().all(|format| match format {
        MatrixFormat::Mxfp4 | MatrixFormat::Mxfp4ColMajor | MatrixFormat::Int(_) => true,
        MatrixFormat::Float(dtype) => {
            dtype == options.compute && moe_computes_in(options.provider).contains(&dtype)
        }
        MatrixFormat::FloatTransposed(_) => false,
    })
}

/// The dtypes that MoE has kernels for.
pub fn moe_computes_in(provider: Provider) -> &'static [DType] {
    match provider {
        Provider::Cpu => &[DType::F32],
        Provider::Cuda => &[DType::F16, DType::BF16],
        Provider::WebGpu => &[],
    }
}

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
    let Context { config, options, .. } = context;
    let dtype = options.compute;
    let normed = in_dtype(g, "norm", normed, dtype)?;
    let scores = in_dtype(g, "router", scores, dtype)?;
    let gate_up = expert_inputs(g, "gate_up", &weights.gate_up, dtype)?;
    let down = expert_inputs(g, "down", &weights.down, dtype)?;
    let fact = g.fact(normed)?;
    let node = match weights.gate_up.matrix.format {
        format if format.is_mxfp4() => {
            // The global scales of NVFP4, which the schema demands for MXFP4 too.
            let [count, ..] = weights.gate_up.matrix.dims();
            let ones = g.table(&format!("ones.{count}"), &vec![1f32; count as usize][..])?;
            let node = mixture(g, "QMoE", [normed, scores], [gate_up, down], config)
                // Zero points and weights of the router.
                .absent(4)
                .inputs([ones, ones])
                .attr("quant_type", "fp4")
                .attr("expert_weight_bits", 4)
                .attr("block_size", mxfp4::BLOCK as i64);
            match options.provider {
                // Row-major codes as stored. The default order has no CPU kernel.
                Provider::Cpu => node.attr("weights_prepacked", 1),
                Provider::Cuda | Provider::WebGpu => node,
            }
        }
        MatrixFormat::Int(bits) => {
            let node = mixture(g, "QMoE", [normed, scores], [gate_up, down], config)
                .attr("expert_weight_bits", bits.count() as i64)
                .attr("block_size", mxfp4::BLOCK as i64);
            match options.provider {
                // Row-major codes as in the schema. The default is the order of CUDA's tiles.
                Provider::Cuda => node.attr("weights_prepacked", 0),
                // int8 has this kernel alone.
                Provider::Cpu => node.attr("accuracy_level", accuracy_level(options)),
                Provider::WebGpu => node,
            }
        }
        _ => mixture(g, "MoE", [normed, scores], [gate_up, down], config),
    };
    let out = node.output(fact)?;
    let out = in_dtype(g, "experts", out, DType::F32)?;
    g.add("residual", x, out)
}

/// The inputs and attributes that both operators share.
fn mixture<'g>(
    g: &'g mut Scope,
    operator: &str,
    [normed, scores]: [Value; 2],
    matrices: [Vec<Value>; 2],
    config: &Config,
) -> NodeBuilder<'g> {
    // The third matrix is absent: gate and up are one.
    let third = matrices[0].len();
    g.node("experts", operator)
        .domain(MICROSOFT)
        .inputs([normed, scores])
        .inputs(matrices.concat())
        .absent(third)
        .attr("k", config.experts_per_token as i64)
        .attr("normalize_routing_weights", 1)
        .attr("activation_type", "swiglu")
        // Gate and up are interleaved.
        .attr("swiglu_fusion", 1)
        .attr("activation_alpha", ALPHA)
        .attr("activation_beta", 1f32)
        .attr("swiglu_limit", config.swiglu_limit as f32)
}

/// The inputs for one of the two matrices, and its bias `[experts, out]`. MXFP4: codes u8
/// `[experts, out, in/2]`, for CUDA `[experts, in, out/2]`, and scales f8e8m0 `[experts, out,
/// in/32]`. Integers: codes u8 `[experts, out, in]`, for int4 `[experts, out, in/2]`, and
/// scales `[experts, out, in/32]` in the operator's dtype. Floats: `[experts, out, in]`.
fn expert_inputs(
    g: &mut Scope,
    name: &str,
    weights: &ExpertWeights,
    dtype: DType,
) -> Result<Vec<Value>> {
    let matrix = &weights.matrix;
    let mut inputs = match matrix.format {
        MatrixFormat::Float(_) => vec![stored(g, matrix.whole())?],
        MatrixFormat::FloatTransposed(_) => unreachable!("no operator reads it"),
        format => {
            let [codes, scales] = matrix.codes_and_scales();
            match format {
                MatrixFormat::Mxfp4 => vec![rows(g, codes)?, powers(g, scales)?],
                MatrixFormat::Mxfp4ColMajor => vec![stored(g, codes)?, powers(g, scales)?],
                _ => vec![rows(g, codes)?, float(g, &format!("{name}.scales"), scales, dtype)?],
            }
        }
    };
    inputs.push(float(g, &format!("{name}.bias"), &weights.bias, dtype)?);
    Ok(inputs)
}

/// MXFP4 scales as f8e8m0.
fn powers(g: &mut Scope, scales: &Weight) -> Result<Value> {
    let fact = Fact::new(DType::F8E8M0, scales.shape.iter().copied());
    g.weight(&scales.name, fact, &scales.name, 0..scales.bytes())
}

/// Blocks of codes as rows: u8 `[experts, out, bytes]`.
fn rows(g: &mut Scope, codes: &Weight) -> Result<Value> {
    let [experts, out, groups, bytes] = codes.shape[..] else { unreachable!("codes have rank 4") };
    let fact = Fact::new(DType::U8, [experts, out, groups * bytes]);
    g.weight(&codes.name, fact, &codes.name, 0..codes.bytes())
}
