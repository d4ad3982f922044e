//! What goes with what: which graphs there are no operators for.

use super::{Error, Options, Target, ort};
use crate::checkpoint::{Config, ModelWeights};
use crate::graph::Style;
use crate::runtime::Provider;
use crate::tensor::DType;
use crate::tensor::ints::Bits;
use crate::weights::{Matrix, MatrixFormat, Role};

type Checked = Result<(), Error>;

/// GroupQueryAttention takes heads of a width that is a multiple of this.
const HEAD_DIM_MULTIPLE: u64 = 8;
/// CUDA's QMoE takes integers in matrices whose sides are multiples of this.
const CUDA_MULTIPLE: u64 = 64;
/// CUDA's MoE takes numbers in such.
const CUDA_MOE_MULTIPLE: u64 = 16;
/// WebGPU's QMoE gives each expert a thread of one workgroup.
const MOST_EXPERTS_ON_WEBGPU: u64 = 256;

/// Whether there is such a graph of any model.
pub fn check_options(options: &Options) -> Checked {
    if ![DType::F32, DType::F16, DType::BF16].contains(&options.compute) {
        return Err(Error::Compute(options.compute));
    }
    match options.target {
        Target::Onnx if options.provider != Provider::Cpu => {
            Err(Error::ProviderForOnnx(options.provider))
        }
        Target::Onnx => Ok(()),
        Target::Ort => {
            check_compute(options)?;
            check_activations(options)
        }
    }
}

/// Kernels of GPUs do with activations what they do.
fn check_activations(options: &Options) -> Checked {
    match options.provider {
        Provider::Cuda | Provider::WebGpu if options.keep_activations => {
            refuse(options, "--keep-activations".to_owned(), "leave it out".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether there is such a graph of a model of these sizes and weights.
pub fn check(config: &Config, weights: &ModelWeights, options: &Options) -> Checked {
    check_options(options)?;
    if options.target == Target::Onnx {
        return check_onnx(weights);
    }
    if !config.head_dim.is_multiple_of(HEAD_DIM_MULTIPLE) {
        return Err(Error::HeadDimForOrt { found: config.head_dim });
    }
    let formats = weights.formats(Role::Experts);
    if options.style == Style::Functions && formats.contains(MatrixFormat::is_mxfp4) {
        return Err(Error::FunctionsForOrt);
    }
    if options.provider == Provider::WebGpu
        && let Some(count) = config.experts.iter().find(|count| **count > MOST_EXPERTS_ON_WEBGPU)
    {
        let instead = format!("its QMoE takes {MOST_EXPERTS_ON_WEBGPU} at most");
        return refuse(options, format!("{count} experts in a layer"), instead);
    }
    weights.matrices(Role::Experts).try_for_each(|matrix| check_experts(matrix, options))
}

/// Standard operators take everything that is stored an output a row, or an input.
fn check_onnx(weights: &ModelWeights) -> Checked {
    let formats = weights.formats(Role::Experts);
    if formats.contains(|format| format == MatrixFormat::Mxfp4ColMajor) {
        return Err(Error::LaidOutForCuda);
    }
    Ok(())
}

/// What each provider's GroupQueryAttention has kernels for.
fn check_compute(options: &Options) -> Checked {
    let takes: &[DType] = match options.provider {
        Provider::Cpu => &[DType::F32, DType::F16],
        Provider::Cuda => &[DType::F16, DType::BF16],
        Provider::WebGpu => &[DType::F16, DType::F32],
    };
    if takes.contains(&options.compute) {
        return Ok(());
    }
    let others: Vec<String> = takes.iter().map(DType::to_string).collect();
    let instead = format!("it has kernels for {}", others.join(" and "));
    refuse(options, format!("--compute {}", options.compute), instead)
}

/// Which experts each provider's QMoE and MoE read. On a CPU a Loop reads the others.
fn check_experts(matrix: &Matrix, options: &Options) -> Checked {
    let what = || format!("experts in {}", matrix.format);
    match (options.provider, matrix.format) {
        (Provider::Cpu, MatrixFormat::Mxfp4ColMajor) => Err(Error::LaidOutForCuda),
        (Provider::Cpu, MatrixFormat::Int(Bits::Eight)) if options.keep_activations => {
            let instead = "its kernel for them rounds activations to 8 bits; use --experts int4";
            refuse(options, format!("{} and --keep-activations", what()), instead.to_owned())
        }
        (Provider::Cpu, _) | (Provider::Cuda, MatrixFormat::Mxfp4ColMajor) => Ok(()),
        (Provider::Cuda, MatrixFormat::Int(_)) => check_sides(matrix, CUDA_MULTIPLE, options),
        (Provider::WebGpu, MatrixFormat::Int(_)) => Ok(()),
        (provider, MatrixFormat::Float(dtype))
            if dtype == options.compute && ort::moe_computes_in(provider).contains(&dtype) =>
        {
            check_sides(matrix, CUDA_MOE_MULTIPLE, options)
        }
        (Provider::Cuda, _) => {
            let compute = options.compute;
            refuse(options, what(), format!("use --experts mxfp4, int4, int8 or {compute}"))
        }
        (Provider::WebGpu, _) => refuse(options, what(), "use --experts int4 or int8".to_owned()),
    }
}

/// Whether both sides of each expert's matrix are what CUDA's kernels take.
fn check_sides(matrix: &Matrix, multiple: u64, options: &Options) -> Checked {
    let Matrix { out, inn, .. } = *matrix;
    match [out, inn].into_iter().find(|size| !size.is_multiple_of(multiple)) {
        Some(size) => refuse(
            options,
            format!("experts in {} and a matrix of {out} by {inn}", matrix.format),
            format!(
                "its operators take multiples of {multiple}, and {size} is none; use --experts mxfp4"
            ),
        ),
        None => Ok(()),
    }
}

fn refuse(options: &Options, what: String, instead: String) -> Checked {
    Err(Error::NotForProvider { provider: options.provider, what, instead })
}
