//! Rotary position embedding with YaRN.
//!
//! A head's vector is two halves `x1, x2`, rotated by the angle of its
//! position: `x1·cos − x2·sin | x2·cos + x1·sin`. Frequency `i` of `half` is
//! `θ^(−i/half)`; YaRN makes it `θ^(−i/half) · (1 − r + r/factor)` with
//! `r = clamp((i − low) / (high − low), 0, 1)` and multiplies cos and sin by
//! `0.1·ln(factor) + 1`. The bounds `low` and `high` are `Rope::bounds` in
//! `checkpoint/config/mod.rs`.

use super::in_dtype;
use crate::checkpoint::{Config, Rope};
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;

/// Cosines and sines of this step's positions, `[B or 1, T, D/2]` each.
pub struct Rotation {
    cos: Value,
    sin: Value,
}

impl Rotation {
    /// From `positions`, i64 `[B or 1, T]`, once for all layers: without a table the context
    /// has no limit.
    pub fn new(g: &mut Scope, positions: Value, config: &Config, dtype: DType) -> Result<Self> {
        let Config { rope, head_dim, .. } = config;
        let g = &mut g.child("rope");
        let frequencies = g.table("rope.frequencies", &frequencies(rope, *head_dim)[..])?;
        // The factor of cos and sin.
        let concentration = if rope.factor <= 1.0 { 1.0 } else { 0.1 * rope.factor.ln() + 1.0 };
        let concentration = g.constant(concentration as f32)?;
        let positions = g.cast("positions.f32", positions, DType::F32)?;
        let positions = g.unsqueeze("positions.column", positions, 2)?;
        let angles = g.mul("angles", positions, frequencies)?;
        let (cos, sin) = (g.cos("cos.unscaled", angles)?, g.sin("sin.unscaled", angles)?);
        let (cos, sin) = (g.mul("cos", cos, concentration)?, g.mul("sin", sin, concentration)?);
        Ok(Self { cos: in_dtype(g, "cos", cos, dtype)?, sin: in_dtype(g, "sin", sin, dtype)? })
    }

    /// Rotates `x [B, heads, T, D]` by basic operators.
    pub fn rotate(&self, g: &mut Scope, name: &str, x: Value) -> Result<Value> {
        let (inputs, names) = ([x, self.cos, self.sin], ["x", "cos", "sin"]);
        let rotated = g.block(name, "RotaryEmbedding", &names, &inputs, |g, inputs| {
            let (x, cos, sin) = (inputs[0], inputs[1], inputs[2]);
            let half = g.fact(cos)?.shape[2].known().expect("a model's own size");
            let (cos, sin) = (g.unsqueeze("cos.heads", cos, 1)?, g.unsqueeze("sin.heads", sin, 1)?);
            let [x1, x2] = g.split("halves", x, 3, [("x1", half), ("x2", half)])?;
            let (x1_cos, x2_sin) = (g.mul("x1_cos", x1, cos)?, g.mul("x2_sin", x2, sin)?);
            let (x2_cos, x1_sin) = (g.mul("x2_cos", x2, cos)?, g.mul("x1_sin", x1, sin)?);
            let first = g.sub("first", x1_cos, x2_sin)?;
            let second = g.add("second", x2_cos, x1_sin)?;
            Ok(vec![g.concat("rotated", &[first, second], 3)?])
        })?;
        Ok(rotated[0])
    }

    /// Rotates `x [B, T, heads·D]` by the operator RotaryEmbedding.
    pub fn rotate_rows(&self, g: &mut Scope, name: &str, x: Value, heads: u64) -> Result<Value> {
        let fact = g.fact(x)?;
        g.node(name, "RotaryEmbedding")
            .inputs([x, self.cos, self.sin])
            .attr("num_heads", heads as i64)
            .output(fact)
    }
}

/// Radians by which each pair of dimensions turns per position.
fn frequencies(rope: &Rope, head_dim: u64) -> Vec<f32> {
    let half = head_dim / 2;
    let [low, high] = rope.bounds(head_dim);
    let frequency = |index: u64| {
        let plain = rope.theta.powf(-(index as f64) / half as f64);
        if rope.factor <= 1.0 {
            return plain as f32;
        }
        let r = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (plain / rope.factor * r + plain * (1.0 - r)) as f32
    };
    (0..half).map(frequency).collect()
}
