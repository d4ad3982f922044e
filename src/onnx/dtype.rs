//! ONNX's element types and ours.

use super::proto::tensor_proto::DataType;
use crate::tensor::DType;

const DTYPES: [(DataType, DType); 10] = [
    (DataType::Bool, DType::Bool),
    (DataType::Uint8, DType::U8),
    (DataType::Int8, DType::I8),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
    (DataType::Float8e5m2, DType::F8E5M2),
    (DataType::Float8e8m0, DType::F8E8M0),
    (DataType::Float16, DType::F16),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Float, DType::F32),
];

pub fn data_type(dtype: DType) -> i32 {
    DTYPES.iter().find(|(_, ours)| *ours == dtype).expect("every dtype is listed").0.into()
}

pub fn from_data_type(number: i32) -> Option<DType> {
    DTYPES.iter().find(|(theirs, _)| i32::from(*theirs) == number).map(|(_, ours)| *ours)
}
