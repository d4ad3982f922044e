//! RMSNorm: `x · rsqrt(mean(x²) + ε) · scale`, along the last axis, in f32.

use super::float;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// Normalizes `x [n, hidden]`.
pub fn rms_norm(
    g: &mut Scope,
    name: &str,
    x: Value,
    scale: &Weight,
    config: &Config,
) -> Result<Value> {
    let normed = g.block(name, "RMSNorm", &["x"], &[x], |g, inputs| {
        let scale = float(g, "scale", scale, DType::F32)?;
        let epsilon = g.parameter("epsilon", config.rms_norm_eps as f32);
        let fact = g.fact(inputs[0])?;
        let node = g.node("normed", "RMSNormalization").inputs([inputs[0], scale]);
        Ok(vec![node.attr("axis", -1).attr("epsilon", epsilon).output(fact)?])
    })?;
    Ok(normed[0])
}
