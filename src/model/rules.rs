//! Which combinations have operators.

use std::fmt::Display;

use super::options::{BatchSymbol, GraphOptions, Provider, Target};
use super::ort;
use crate::checkpoint::{Config, ModelWeights};
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::graph::Style;
use crate::tensor::DType;
use crate::tensor::ints::Bits;
use crate::weights::{FormatSet, Matrix, MatrixFormat, PerRole, Role};

/// GroupQueryAttention supports head widths that are multiples of this.
const HEAD_DIM_MULTIPLE: u64 = 8;
/// CUDA's QMoE supports integer matrices whose sides are multiples of this.
const CUDA_QMOE_MULTIPLE: u64 = 64;
/// CUDA's MoE supports matrices of floats whose sides are multiples of this.
const CUDA_MOE_MULTIPLE: u64 = 16;
/// WebGPU's QMoE gives each expert a thread of one workgroup.
const MOST_EXPERTS_ON_WEBGPU: u64 = 256;

/// Refuses options that no model has operators for.
pub fn check_options(options: &GraphOptions) -> Result<()> {
    let GraphOptions { target, provider, compute, .. } = *options;
    ensure!(
        [DType::F32, DType::F16, DType::BF16].contains(&compute),
        "compute dtype {compute} is not supported: use f32, f16 or bf16"
    );
    // The dtypes of each provider's GroupQueryAttention.
    let supported: &[DType] = match (target, provider) {
        (Target::Onnx, Provider::Cpu) => return Ok(()),
        (Target::Onnx, _) => {
            return Err(err!(
                "execution provider `{provider}` is for target `ort`: standard operators are the same for all providers"
            )
            .with_remedy(Setting::Target, "ort")
            .with_remedy(Setting::Provider, "cpu"));
        }
        (Target::Ort, Provider::Cpu) => &[DType::F32, DType::F16],
        (Target::Ort, Provider::Cuda) => &[DType::F16, DType::BF16],
        (Target::Ort, Provider::WebGpu) => &[DType::F16, DType::F32],
    };
    if !supported.contains(&compute) {
        let what = format_args!("compute dtype {compute}");
        let names = supported.iter().map(DType::to_string).collect::<Vec<_>>().join(" and ");
        let instead = format_args!("its kernels compute in {names}");
        return Err(unsupported(provider, what, instead, Setting::Compute, supported));
    }
    if options.keep_activations && provider != Provider::Cpu {
        bail!(
            "execution provider `{provider}` does not support keeping activations in float: its kernels have one way to multiply integers; do not ask to keep them"
        );
    }
    Ok(())
}

/// Refuses options that a model of these sizes and weights has no operators for.
pub fn check(config: &Config, weights: &ModelWeights, options: &GraphOptions) -> Result<()> {
    check_options(options)?;
    let GraphOptions { target, provider, style, .. } = *options;
    if target == Target::Onnx {
        return Ok(());
    }
    let on_gpu = provider != Provider::Cpu;
    if on_gpu && weights.formats(Role::Dense).contains(|it| it == MatrixFormat::Int8x2) {
        let (what, instead) =
            ("dense matrices in int8x2", "it has no kernel that multiplies their digits");
        return Err(unsupported(provider, what, instead, Setting::Dense, &["bf16", "int8"]));
    }
    if on_gpu && weights.layers.iter().any(|it| it.mlp.has_changed_experts()) {
        return Err(err!(
            "execution provider `{provider}` does not support an adapter of experts: its operator takes none; merge it into the weights"
        )
        .with_remedy(Setting::AdapterAs, "merge")
        .with_remedy(Setting::Provider, "cpu"));
    }
    let formats = weights.formats(Role::Experts);
    let use_onnx = |error: Error| Err(error.with_remedy(Setting::Target, "onnx"));
    if !config.head_dim.is_multiple_of(HEAD_DIM_MULTIPLE) {
        return use_onnx(err!(
            "target `ort` does not support a head_dim of {}: GroupQueryAttention needs a multiple of {HEAD_DIM_MULTIPLE}; use target `onnx`, with a cache if the model generates text",
            config.head_dim
        ));
    }
    if style == Style::Functions && formats.contains(MatrixFormat::is_fp4) {
        return use_onnx(err!(
            "target `ort` does not support functions with experts in {formats}: onnxruntime takes no scales of 8-bit floats as inputs of a function; export without functions, or for target `onnx`"
        ));
    }
    let too_many = config.experts.iter().find(|count| **count > MOST_EXPERTS_ON_WEBGPU);
    if let (Provider::WebGpu, Some(count)) = (provider, too_many) {
        return use_onnx(err!(
            "execution provider `webgpu` does not support {count} experts in a layer: its QMoE takes at most {MOST_EXPERTS_ON_WEBGPU}"
        ));
    }
    if on_gpu && formats.common().is_none() {
        let (what, instead) = (format!("experts in {formats}"), "its kernels read one format");
        let formats: &[&str] =
            if provider == Provider::Cuda { &["nvfp4", "int4"] } else { &["int4", "int8"] };
        return Err(unsupported(provider, what, instead, Setting::Experts, formats));
    }
    let mut sources = weights.matrices(Role::Experts).map(Matrix::source);
    let narrow = sources.find(|source| !source.fills_blocks());
    let mut matrices = weights.matrices(Role::Experts);
    matrices.try_for_each(|matrix| check_experts(matrix, narrow, options))
}

/// Whether the provider's QMoE or MoE reads the experts. On a CPU a Loop reads the others. The rows of
/// a `narrow` matrix are no whole blocks.
fn check_experts(matrix: &Matrix, narrow: Option<&Matrix>, options: &GraphOptions) -> Result<()> {
    let GraphOptions { provider, compute, .. } = *options;
    let Matrix { format, out, inn, .. } = *matrix;
    let refuse = |detail: &str, instead: &str, others: &[&str]| {
        let what = format!("experts in {format}{detail}");
        let Some(Matrix { inn: rows, .. }) = narrow else {
            return Err(unsupported(provider, what, instead, Setting::Experts, others));
        };
        // All others are in blocks.
        let instead =
            format!("{instead}, and rows of {rows} elements cannot be converted to others");
        Err(unsupported(provider, what, instead, Setting::Target, &["onnx"]))
    };
    match (provider, format) {
        (Provider::Cpu, MatrixFormat::Int(Bits::Eight)) if options.keep_activations => {
            let detail = " with activations kept in float";
            // What MXFP4 holds, two digits hold too.
            let is_exact = matrix.source().format.is_fp4();
            let others: &[&str] = if is_exact { &["int4x2", "int4"] } else { &["int4"] };
            refuse(detail, "its kernel quantizes them to 8 bits", others)
        }
        (Provider::Cpu, _)
        | (Provider::Cuda, MatrixFormat::Nvfp4)
        | (Provider::WebGpu, MatrixFormat::Int(_)) => Ok(()),
        (Provider::Cuda, MatrixFormat::Int(_) | MatrixFormat::Float(_))
            if ort::reads_experts(format, options) =>
        {
            let multiple = if format.is_int() { CUDA_QMOE_MULTIPLE } else { CUDA_MOE_MULTIPLE };
            if [out, inn].iter().all(|side| side.is_multiple_of(multiple)) {
                return Ok(());
            }
            let instead = format!("its kernels need multiples of {multiple}");
            refuse(&format!(" of {out} by {inn}"), &instead, &["nvfp4"])
        }
        (Provider::Cuda, _) => {
            let instead = format!("its kernels read nvfp4, int4, int8 and {compute}");
            refuse("", &instead, &["nvfp4", "int4"])
        }
        (Provider::WebGpu, _) => refuse("", "its kernel reads integers", &["int4", "int8"]),
    }
}

/// An error that recommends these values of a setting.
fn unsupported(
    provider: Provider,
    what: impl Display,
    instead: impl Display,
    setting: Setting,
    values: &[impl ToString],
) -> Error {
    let error = err!("execution provider `{provider}` does not support {what}: {instead}");
    values.iter().fold(error, |error, value| error.with_remedy(setting, value.to_string()))
}

/// The settings with which another export of the same weights rounds nothing while it runs on a CPU.
pub fn exact_settings(
    options: &GraphOptions,
    formats: &PerRole<FormatSet>,
) -> Vec<(Setting, String)> {
    let has = |role: Role, is: fn(MatrixFormat) -> bool| formats[role].contains(is);
    let is_int8 = |format| format == MatrixFormat::Int(Bits::Eight);
    let has_ints = Role::ALL.into_iter().any(|role| has(role, MatrixFormat::is_int));
    // ONNX Runtime's experts in int8 always quantize activations, and transformers.js takes no model
    // for another provider, nor one in another place.
    let is_for_web = options.batch_symbol == BatchSymbol::BatchSize;
    let is_standard = options.target == Target::Onnx || has(Role::Experts, is_int8) || is_for_web;
    // Integers may be what the provider implies.
    let implied = |role: Role| match formats[role].common() {
        Some(format) if options.provider != Provider::Cpu && format.is_int() => format.to_string(),
        _ => String::new(),
    };
    let [experts, dense] = [Role::Experts, Role::Dense].map(implied);
    let other = if is_for_web { "OTHER/onnx/model.onnx" } else { "OTHER.onnx" };
    [
        (options.target == Target::Ort && is_standard, Setting::Target, "onnx"),
        (options.provider != Provider::Cpu, Setting::Provider, "cpu"),
        (!experts.is_empty(), Setting::Experts, &*experts),
        (!dense.is_empty(), Setting::Dense, &*dense),
        (options.compute != DType::F32, Setting::Compute, "f32"),
        (!is_standard && has_ints && !options.keep_activations, Setting::KeepActivations, ""),
        // The model itself may be there already.
        (true, Setting::Output, other),
    ]
    .into_iter()
    .filter(|(helps, ..)| *helps)
    .map(|(_, setting, value)| (setting, value.to_owned()))
    .collect()
}
