//! The experts as ONNX Runtime's QMoE, which reads stored 4-bit floats and integers, or as its MoE,
//! which reads floats.
//!
//! Digits (int4x2) are two matrices in one. A row of gate_up has all high digits, then all low ones, so its
//! input is `[normed, normed]`. Of down a row of high digits and one of low digits follow each other,
//! so pairs of outputs are added.

use crate::checkpoint::{ExpertWeights, MlpWeights};
use crate::error::Result;
use crate::graph::{Fact, MICROSOFT, Scope, Value};
use crate::model::context::Context;
use crate::model::ort::linear::accuracy_level;
use crate::model::{GraphOptions, Provider, SWIGLU_ALPHA, float, in_dtype, stored};
use crate::tensor::{BLOCK, DType, nvfp4};
use crate::weights::{Matrix, MatrixFormat, Weight};

/// Whether an operator reads experts in this format: MoE reads floats of its compute dtype.
pub fn reads_experts(format: MatrixFormat, options: &GraphOptions) -> bool {
    use MatrixFormat::{Float, FloatTransposed, Int, Int4x2, Int8x2, Mxfp4, Nvfp4};
    match (format, options.provider) {
        (Mxfp4 | Nvfp4 | Int(_) | Int4x2, _) => true,
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
    let mut normed = in_dtype(g, "norm", normed, dtype)?;
    let scores = in_dtype(g, "router", scores, dtype)?;
    // A Loop in the place of the operator reads the same bytes under other shapes and dtypes.
    let end = if weights.has_swappable_experts() { ".of_operator" } else { "" };
    let format = weights.gate_up.matrix.format;
    let has_digits = format == MatrixFormat::Int4x2;
    let [gate_up, down] = g.outside_bodies(|g| {
        let gate_up = expert_inputs(g, "gate_up", &weights.gate_up, [1, 2], end, dtype)?;
        Ok([gate_up, expert_inputs(g, "down", &weights.down, [2, 1], end, dtype)?])
    })?;
    if has_digits {
        normed = g.concat("experts.twice", &[normed, normed], 1)?;
    }
    let fact = g.fact(normed)?;
    let global_scales = global_scales(g, weights)?;
    let mut node = g
        .node("experts", if format.has_blocks() { "QMoE" } else { "MoE" })
        .domain(MICROSOFT)
        .inputs([normed, scores])
        .inputs([&gate_up[..], &down[..]].concat())
        // The third matrix, as gate and up are one; zero points, and weights of the router.
        .absent(gate_up.len() + 4)
        .inputs(global_scales)
        .attr("k", config.experts_per_token as i64)
        .attr("normalize_routing_weights", 1)
        .attr("activation_type", "swiglu")
        // Gate and up are interleaved.
        .attr("swiglu_fusion", 1)
        .attr("activation_alpha", SWIGLU_ALPHA)
        .attr("activation_beta", 1f32)
        .attr("swiglu_limit", config.swiglu_limit as f32);
    node = match format {
        MatrixFormat::Mxfp4 => node.attr("quant_type", "fp4"),
        MatrixFormat::Nvfp4 => node.attr("quant_type", "nvfp4"),
        _ => node,
    };
    if format.has_blocks() {
        let (bits, block) = match format {
            MatrixFormat::Int(bits) => (bits.count(), BLOCK),
            MatrixFormat::Nvfp4 => (4, nvfp4::BLOCK),
            _ => (4, BLOCK),
        };
        node = node.attr("expert_weight_bits", bits as i64).attr("block_size", block as i64);
    }
    node = match (format, options.provider) {
        // The checkpoint's codes. The default order has no CPU kernel.
        (MatrixFormat::Mxfp4 | MatrixFormat::Nvfp4, _) => node.attr("weights_prepacked", 1),
        // Row-major codes as in the schema. The default is the order of CUDA's tiles.
        (MatrixFormat::Int(_), Provider::Cuda) => node.attr("weights_prepacked", 0),
        // int8 has this kernel alone.
        (MatrixFormat::Int(_), Provider::Cpu) => {
            node.attr("accuracy_level", accuracy_level(options))
        }
        // Activations of 8 bits would lose more than a low digit is.
        (MatrixFormat::Int4x2, _) => node.attr("accuracy_level", 0),
        _ => node,
    };
    let out = node.output(fact)?;
    let mut out = in_dtype(g, "experts", out, DType::F32)?;
    if has_digits {
        let shape = g.fact(x)?.shape;
        let digits = g.reshape("experts.pairs", out, [&shape[0], &shape[1], &2.into()])?;
        out = g.reduce_sum("experts.sum", digits, 2, false)?;
    }
    g.add("residual", x, out)
}

/// The inputs for one of the two matrices, and its bias `[experts, out]`. MXFP4: codes u8
/// `[experts, out, in/2]`, and scales f8e8m0 `[experts, out, in/32]`. NVFP4: the same bytes as codes u8
/// `[experts, in, out/2]`, which are the operator's logical dimensions, and scales f8e4m3 `[experts,
/// out, in/16]`. Integers: codes u8 `[experts, out, in]`, for int4 `[experts, out, in/2]`, and scales
/// `[experts, out, in/32]` in the operator's dtype; of digits `out` and `in` are so many `times` as
/// large, and the bias of a low digit is 0. Floats: `[experts, out, in]`. `end` is that of the names
/// of bytes with a shape or dtype of the operator's own.
fn expert_inputs(
    g: &mut Scope,
    name: &str,
    weights: &ExpertWeights,
    times: [u64; 2],
    end: &str,
    dtype: DType,
) -> Result<Vec<Value>> {
    let Matrix { format, out, inn, ref parts, .. } = weights.matrix;
    let [experts, ..] = weights.matrix.dims();
    let sides = |columns: u64| [experts, out, columns];
    let mut inputs = match (format, &parts[..]) {
        (MatrixFormat::Float(_), [whole]) => vec![stored(g, whole)?],
        (MatrixFormat::Mxfp4, [codes, scales]) => {
            vec![
                view(g, codes, end, DType::U8, sides(inn / 2))?,
                view(g, scales, end, DType::F8E8M0, sides(inn / BLOCK))?,
            ]
        }
        (MatrixFormat::Nvfp4, [codes, scales, _]) => {
            vec![
                view(g, codes, end, DType::U8, [experts, inn, out / 2])?,
                view(g, scales, end, DType::F8E4M3, sides(inn / nvfp4::BLOCK))?,
            ]
        }
        (MatrixFormat::Int(bits), [codes, scales]) => {
            let codes = view(g, codes, end, DType::U8, sides(inn * bits.count() / 8))?;
            vec![codes, float(g, &format!("{name}.scales"), scales, dtype)?]
        }
        (MatrixFormat::Int4x2, [codes, scales]) => {
            let [rows, columns] = [times[0] * out, times[1] * inn];
            let bytes = columns / 2;
            let codes = view(g, codes, end, DType::U8, [experts, rows, bytes])?;
            let scales = view(g, scales, end, DType::F32, [experts, rows, columns / BLOCK])?;
            vec![codes, in_dtype(g, &format!("{name}.scales"), scales, dtype)?]
        }
        (format, _) => unreachable!("no operator reads {format}"),
    };
    let mut bias = float(g, &format!("{name}.bias"), &weights.bias, dtype)?;
    if times[0] > 1 && format == MatrixFormat::Int4x2 {
        let digits = g.unsqueeze(&format!("{name}.bias.high"), bias, 2)?;
        let digits = g.pad(&format!("{name}.bias.pairs"), digits, 2, [0, times[0] - 1])?;
        bias = g.reshape(&format!("{name}.bias.rows"), digits, [experts, times[0] * out])?;
    }
    inputs.push(bias);
    Ok(inputs)
}

/// The global scales f32 `[experts]` of both matrices in NVFP4; for MXFP4 ones, which the schema
/// demands, and none for other formats.
fn global_scales(g: &mut Scope, weights: &MlpWeights) -> Result<Vec<Value>> {
    let matrices = [&weights.gate_up.matrix, &weights.down.matrix];
    let [count, ..] = matrices[0].dims();
    let scale = |matrix: &&Matrix| match (matrix.format, &matrix.parts[..]) {
        (MatrixFormat::Mxfp4, _) => {
            let ones = vec![1f32; count as usize];
            Some(g.table(&format!("ones.{count}"), &ones[..]))
        }
        (MatrixFormat::Nvfp4, [.., global]) => Some(stored(g, global)),
        _ => None,
    };
    matrices.iter().filter_map(scale).collect()
}

/// The bytes of a weight under a dtype and a shape of the operator's own.
fn view(g: &mut Scope, weight: &Weight, end: &str, dtype: DType, shape: [u64; 3]) -> Result<Value> {
    let name = format!("{}{end}", weight.name);
    g.weight(&name, Fact::new(dtype, shape), &weight.name, 0..weight.bytes())
}
