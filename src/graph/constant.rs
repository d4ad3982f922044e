//! Small tensors that the graph itself carries.

use super::Fact;
use super::fact::joined;
use crate::tensor::DType;

/// A small tensor of known shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    pub(super) fact: Fact,
    /// Little-endian.
    pub(super) bytes: Vec<u8>,
}

macro_rules! constant_from {
    ($($number:ty: $dtype:ident),+) => {$(
        impl From<$number> for Constant {
            fn from(number: $number) -> Self {
                Self { fact: Fact::scalar(DType::$dtype), bytes: number.to_le_bytes().to_vec() }
            }
        }

        impl From<&[$number]> for Constant {
            fn from(numbers: &[$number]) -> Self {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self { fact: Fact::new(DType::$dtype, [numbers.len() as u64]), bytes }
            }
        }
    )+};
}

constant_from!(f32: F32, i64: I64, u8: U8);

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Self { fact: Fact::scalar(DType::Bool), bytes: vec![value.into()] }
    }
}

impl Constant {
    /// The same elements in another shape of the same size.
    pub fn shaped(mut self, shape: impl IntoIterator<Item = u64>) -> Self {
        self.fact = self.fact.with_shape(shape);
        self
    }

    /// A name that shows dtype, shape and value.
    pub(super) fn label(&self) -> String {
        let Fact { dtype, shape } = &self.fact;
        let elements = self.bytes.chunks(dtype.size() as usize).map(|bytes| number(*dtype, bytes));
        let elements = elements.collect::<Vec<_>>().join(",");
        let shape =
            if shape.is_empty() { String::new() } else { format!("[{}]", joined(shape, "x")) };
        format!("{dtype}{shape}:{elements}")
    }
}

/// One little-endian element as text.
fn number(dtype: DType, bytes: &[u8]) -> String {
    match (dtype, bytes) {
        (DType::Bool, [value]) => (*value != 0).to_string(),
        (DType::F32, &[a, b, c, d]) => match f32::from_le_bytes([a, b, c, d]) {
            large if large.abs() >= 1e6 => format!("{large:e}"),
            ordinary => ordinary.to_string(),
        },
        _ => {
            let mut wide = [0u8; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            i64::from_le_bytes(wide).to_string()
        }
    }
}
