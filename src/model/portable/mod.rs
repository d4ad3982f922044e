//! Attention and experts in the operators of ai.onnx alone.

mod attention;
mod decode;
mod experts;
mod mxfp4;

pub use attention::attention;
pub use decode::decoded;
pub use experts::experts;

use crate::error::Result;
use crate::graph::{Scope, Value};
use crate::model::stored;
use crate::weights::Weight;

/// One expert's part of a weight, as stored.
fn gather_expert(g: &mut Scope, name: &str, weight: &Weight, expert: Value) -> Result<Value> {
    let all = stored(g, weight)?;
    g.gather(&format!("{name}.chosen"), all, expert, 0)
}
