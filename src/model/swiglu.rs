//! SwiGLU: `gate · sigmoid(1.702·gate) · (up + 1)`, of limited gate and up.

use super::in_dtype;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;

/// Slope of SwiGLU's sigmoid.
pub const ALPHA: f32 = 1.702;

/// `x [n, 2·intermediate]`, gate and up interleaved, to `[n, intermediate]`, in f32.
pub fn swiglu(g: &mut Scope, x: Value, config: &Config) -> Result<Value> {
    let g = &mut g.child("swiglu");
    let x = in_dtype(g, "x", x, DType::F32)?;
    let rows = g.fact(x)?.shape[0].clone();
    let pairs = g.reshape("pairs", x, [rows, config.intermediate_size.into(), 2.into()])?;
    let (gate, up) = (g.gather_at("gate", pairs, 0, 2)?, g.gather_at("up", pairs, 1, 2)?);
    let limit = config.swiglu_limit as f32;
    let most = g.constant(limit)?;
    let gate = g.min("gate.limited", gate, most)?;
    let up = g.clip("up.limited", up, -limit, limit)?;
    let (alpha, one) = (g.constant(ALPHA)?, g.constant(1f32)?);
    let steep = g.mul("gate.steep", gate, alpha)?;
    let open = g.sigmoid("gate.open", steep)?;
    let gate = g.mul("gate.swish", gate, open)?;
    let up = g.add("up.shifted", up, one)?;
    g.mul("", gate, up)
}
