//! ONNX operators as methods of a scope: each checks its operands and knows
//! the dtype and shape of its result. Semantics are those of ai.onnx, opset 23.

mod control;
mod index;
mod math;
mod shape;

use super::{Dim, Error, Fact, Result, Scope, Value};
use crate::tensor::DType;

impl Scope<'_> {
    /// The fact of an operand that must have this rank.
    fn ranked(&self, name: &str, op: &str, value: Value, rank: usize) -> Result<Fact> {
        let found = self.fact(value)?;
        if found.rank() == rank {
            return Ok(found);
        }
        let node = self.path_of(name);
        Err(Error::Rank { node, op: op.to_owned(), expected: rank, found })
    }

    /// The fact of an operand that must have this dtype.
    fn typed(&self, name: &str, op: &str, value: Value, dtype: DType) -> Result<Fact> {
        let found = self.fact(value)?;
        if found.dtype == dtype {
            return Ok(found);
        }
        let node = self.path_of(name);
        Err(Error::Dtype { node, op: op.to_owned(), expected: dtype, found })
    }

    /// The axis must be one of the operand's.
    fn axis<'f>(&self, name: &str, op: &str, fact: &'f Fact, axis: usize) -> Result<&'f Dim> {
        fact.shape.get(axis).ok_or_else(|| Error::Axis {
            node: self.path_of(name),
            op: op.to_owned(),
            axis,
            found: fact.clone(),
        })
    }

    /// Two operands that do not fit together.
    fn mismatch(&self, name: &str, op: &str, left: &Fact, right: &Fact) -> Error {
        Error::Mismatch {
            node: self.path_of(name),
            op: op.to_owned(),
            left: left.clone(),
            right: right.clone(),
        }
    }
}
