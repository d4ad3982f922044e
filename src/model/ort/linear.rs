//! Dense layers with integer weights, `x · ((code − zero) · scale)ᵀ + b`, as ONNX Runtime's MatMulNBits.

use crate::error::Result;
use crate::graph::{MICROSOFT, Scope, Value};
use crate::model::{GraphOptions, Provider, float, stored};
use crate::tensor::BLOCK;
use crate::tensor::ints::Bits;
use crate::weights::Matrix;

/// `x [n, in]` to `[n, out]`, in the dtype of `x`, with codes u8 `[out, groups, bytes]` and
/// scales f32 `[out, groups]`.
pub fn integers(
    g: &mut Scope,
    x: Value,
    matrix: &Matrix,
    bits: Bits,
    bias: Option<Value>,
    options: &GraphOptions,
) -> Result<Value> {
    let input = g.fact(x)?;
    let [codes, scales] = matrix.codes_and_scales();
    let scales = float(g, "scales", scales, input.dtype)?;
    let codes = stored(g, codes)?;
    g.node("", "MatMulNBits")
        .domain(MICROSOFT)
        .inputs([x, codes, scales])
        // Zero points (by default the middle of the codes) and group indices.
        .absent(2)
        .input(bias)
        .attr("K", matrix.inn as i64)
        .attr("N", matrix.out as i64)
        .attr("bits", bits.count() as i64)
        .attr("block_size", BLOCK as i64)
        .attr("accuracy_level", accuracy_level(options))
        .output(input.with_shape([&input.shape[0], &matrix.out.into()]))
}

/// Whether MatMulNBits is the faster way: at accuracy level 0 its CPU kernel dequantizes an
/// int8 matrix in every step, which standard operators do once at load time.
pub fn multiplies_integers(bits: Bits, options: &GraphOptions) -> bool {
    bits == Bits::Four || options.provider != Provider::Cpu || options.quantizes_activations()
}

/// 4: the CPU kernels quantize activations to 8 bits, which is several times faster than 0,
/// activations in float. GPU kernels ignore it.
pub fn accuracy_level(options: &GraphOptions) -> i64 {
    if options.quantizes_activations() { 4 } else { 0 }
}
