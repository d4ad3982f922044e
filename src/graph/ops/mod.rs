//! ONNX operators as methods of a scope: each checks its operands and knows the dtype and
//! shape of its result. Semantics are those of ai.onnx, opset 23.

mod control;
mod math;
mod shape;
