//! Attention sinks.

use super::{float, in_dtype};
use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::tensor::DType;
use crate::weights::Weight;

/// Sinks `[heads]` in a dtype, clipped to finite values: a sink of −∞ (a head without one) or
/// beyond the dtype's range would give NaN in a product with 0.
pub fn finite_sinks(g: &mut Scope, sinks: &Weight, dtype: DType) -> Result<Value> {
    let sinks = float(g, "sinks", sinks, DType::F32)?;
    let largest = dtype.largest();
    let sinks = g.clip("sinks.finite", sinks, -largest, largest)?;
    in_dtype(g, "sinks", sinks, dtype)
}
