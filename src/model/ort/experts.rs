//! The experts as ONNX Runtime's QMoE, which reads stored MXFP4 and integers, or as its MoE,
//! which reads floats.

use crate::checkpoint::{ExpertWeights, MlpWeights};
use crate::error::Result;
use crate::graph::{Fact, MICROSOFT, Scope, Value};
use crate::model::context::Context;
use crate::model::ort::linear::accuracy_level;
use crate::model::{GraphOptions, Provider, SWIGLU_ALPHA, float, in_dtype, stored};
use crate::tensor::{DType, mxfp4};
use crate::weights::{MatrixFormat, Weight};

/// Whether an operator reads experts in this format: MoE reads floats of its compute dtype.
pub fn reads_experts(format: MatrixFormat, options: &GraphOptions) -> bool {
    use MatrixFormat::{Float, FloatTransposed, Int, Int8x2, Mxfp4, Mxfp4ColMajor};
    match (format, options.provider) {
        (Mxfp4 | Mxfp4ColMajor | Int(_), _) => true,
        // The dtypes that MoE has kernels for.
        (Float(DType::F32), Provider::Cpu) | (Float(DType::F16 | DType::BF16), Provider::Cuda) => {
            format == Float(options.compute)
        }
        (Float(_) | FloatTransposed(_) | Int8x2, _) => false,
    }
}

/// Adds the experts' outputs for `normed [n, hidden]` to `x [n, hidden]`, by the router's
/// `scores [n, experts]`.
pub fn experts(
    g: &mut Scope,
    [x, normed, scores]: [Value; 3],
    weights: &MlpWeights,
    context: &Context,
) -> Result<Value> {
    let Context { config, options, .. } = context;
    let dtype = options.compute;
    let normed = in_dtype(g, "norm", normed, dtype)?;
    let scores = in_dtype(g, "router", scores, dtype)?;
    // A Loop in the place of the operator reads the same bytes under other shapes and dtypes.
    let end = if weights.has_swappable_experts() { ".of_operator" } else { "" };
    let mut inputs = |name, it| g.outside_bodies(|g| expert_inputs(g, name, it, end, dtype));
    let gate_up = inputs("gate_up", &weights.gate_up)?;
    let down = inputs("down", &weights.down)?;
    let fact = g.fact(normed)?;
    let format = weights.gate_up.matrix.format;
    // The global scales of NVFP4, which the schema demands for MXFP4 too.
    let [count, ..] = weights.gate_up.matrix.dims();
    let ones = vec![1f32; count as usize];
    let ones = format.is_mxfp4().then(|| g.table(&format!("ones.{count}"), &ones[..]));
    let ones = ones.transpose()?;
    let mut node = g
        .node("experts", if format.has_blocks() { "QMoE" } else { "MoE" })
        .domain(MICROSOFT)
        .inputs([normed, scores])
        .inputs([&gate_up[..], &down[..]].concat())
        // The third matrix, as gate and up are one; zero points, and weights of the router.
        .absent(gate_up.len() + 4)
        .input(ones)
        .input(ones)
        .attr("k", config.experts_per_token as i64)
        .attr("normalize_routing_weights", 1)
        .attr("activation_type", "swiglu")
        // Gate and up are interleaved.
        .attr("swiglu_fusion", 1)
        .attr("activation_alpha", SWIGLU_ALPHA)
        .attr("activation_beta", 1f32)
        .attr("swiglu_limit", config.swiglu_limit as f32);
    if format.is_mxfp4() {
        node = node.attr("quant_type", "fp4");
    }
    if format.has_blocks() {
        let bits = if let MatrixFormat::Int(bits) = format { bits.count() as i64 } else { 4 };
        node = node.attr("expert_weight_bits", bits).attr("block_size", mxfp4::BLOCK as i64);
    }
    node = match (format, options.provider) {
        // Row-major codes as stored. The default order has no CPU kernel.
        (MatrixFormat::Mxfp4, Provider::Cpu) => node.attr("weights_prepacked", 1),
        // Row-major codes as in the schema. The default is the order of CUDA's tiles.
        (MatrixFormat::Int(_), Provider::Cuda) => node.attr("weights_prepacked", 0),
        // int8 has this kernel alone.
        (MatrixFormat::Int(_), Provider::Cpu) => {
            node.attr("accuracy_level", accuracy_level(options))
        }
        _ => node,
    };
    let out = node.output(fact)?;
    let out = in_dtype(g, "experts", out, DType::F32)?;
    g.add("residual", x, out)
}

/// The inputs for one of the two matrices, and its bias `[experts, out]`. MXFP4: codes u8
/// `[experts, out, in/2]`, for CUDA `[experts, in, out/2]`, and scales f8e8m0 `[experts, out,
/// in/32]`. Integers: codes u8 `[experts, out, in]`, for int4 `[experts, out, in/2]`, and
/// scales `[experts, out, in/32]` in the operator's dtype. Floats: `[experts, out, in]`. `end` is
/// that of the names of bytes with a shape or dtype of the operator's own.
fn expert_inputs(
    g: &mut Scope,
    name: &str,
    weights: &ExpertWeights,
    end: &str,
    dtype: DType,
) -> Result<Vec<Value>> {
    let mut inputs = match (weights.matrix.format, &weights.matrix.parts[..]) {
        (MatrixFormat::Float(_), [whole]) => vec![stored(g, whole)?],
        (MatrixFormat::Mxfp4, [codes, scales]) => {
            vec![rows(g, codes, end)?, powers(g, scales, end)?]
        }
        (MatrixFormat::Mxfp4ColMajor, [codes, scales]) => {
            vec![stored(g, codes)?, powers(g, scales, end)?]
        }
        (MatrixFormat::Int(_), [codes, scales]) => {
            vec![rows(g, codes, end)?, float(g, &format!("{name}.scales"), scales, dtype)?]
        }
        (format, _) => unreachable!("no operator reads {format}"),
    };
    inputs.push(float(g, &format!("{name}.bias"), &weights.bias, dtype)?);
    Ok(inputs)
}

/// MXFP4 scales as f8e8m0.
fn powers(g: &mut Scope, scales: &Weight, end: &str) -> Result<Value> {
    let fact = Fact::new(DType::F8E8M0, scales.shape.iter().copied());
    g.weight(&format!("{}{end}", scales.name), fact, &scales.name, 0..scales.bytes())
}

/// Blocks of codes as rows: u8 `[experts, out, bytes]`.
fn rows(g: &mut Scope, codes: &Weight, end: &str) -> Result<Value> {
    let [experts, out, groups, bytes] = codes.shape[..] else { unreachable!("codes have rank 4") };
    let fact = Fact::new(DType::U8, [experts, out, groups * bytes]);
    g.weight(&format!("{}{end}", codes.name), fact, &codes.name, 0..codes.bytes())
}
