//! Attention: grouped queries, a learned sink for each head, and on some
//! layers a sliding window.
//!
//! `x + out(softmax(q·kᵀ/√D + mask, sink) · v)`, where the sink joins the
//! softmax as one more score that is neither scaled nor has a value. Query head
//! `h` reads key head `h / (heads / kv)`: `heads / kv` of them form a group.

use super::context::{Backend, Context, STREAM};
use super::linear::linear;
use super::norm::rms_norm;
use super::{in_dtype, ort, portable};
use crate::checkpoint::AttentionWeights;
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;

/// Adds attention to the residual stream, and this step's keys and values to the cache.
pub fn attention_block(
    g: &mut Scope,
    stream: &[Value],
    weights: &AttentionWeights,
    window: Option<u64>,
    context: &Context,
) -> Result<Vec<Value>> {
    g.block("attn", "AttentionBlock", &STREAM, stream, |g, stream| {
        let (x, past) = (stream[0], &stream[1..]);
        let normed = rms_norm(g, "norm", x, &weights.norm, context.config)?;
        let normed = in_dtype(g, "norm", normed, context.options.compute)?;
        let qkv = match &weights.qkv[..] {
            [whole] => linear(g, "qkv", normed, whole, context)?,
            parts => {
                let parts = ["q", "k", "v"].into_iter().zip(parts);
                let parts = parts.map(|(name, part)| linear(g, name, normed, part, context));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                g.concat("qkv", &parts, 1)?
            }
        };
        let (mixed, cache) = match &context.backend {
            Backend::Portable(mask) => {
                let bias = mask.bias(g, window)?;
                portable::attention(g, qkv, past, &weights.sinks, bias, context)?
            }
            Backend::Ort(packing) => {
                ort::attention(g, qkv, past, &weights.sinks, window, packing, context)?
            }
        };
        let out = linear(g, "out", mixed, &weights.out, context)?;
        let out = in_dtype(g, "out", out, DType::F32)?;
        Ok([vec![g.add("residual", x, out)?], cache].concat())
    })
}
