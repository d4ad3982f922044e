//! Words of the command line for formats, dtypes and execution providers.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use gpt_oss_export::export::MatrixFormat;
use gpt_oss_export::model::Provider;
use gpt_oss_export::tensor::DType;
use gpt_oss_export::tensor::ints::Bits;

/// What a word stands for, and what the help says of it.
type Word<T> = (&'static str, T, &'static str);

const INT8: MatrixFormat = MatrixFormat::Int(Bits::Eight);
const INT4: MatrixFormat = MatrixFormat::Int(Bits::Four);
const BF16: MatrixFormat = MatrixFormat::Float(DType::BF16);
const F16: MatrixFormat = MatrixFormat::Float(DType::F16);
const F32: MatrixFormat = MatrixFormat::Float(DType::F32);

/// A format for experts.
pub fn experts() -> impl TypedValueParser<Value = MatrixFormat> {
    one_of([
        (
            "mxfp4",
            MatrixFormat::Mxfp4,
            "Blocks of 32 four-bit numbers that share a scale, as released",
        ),
        ("int8", INT8, "Integers of 8 bits, 32 of which share a scale: exact for MXFP4"),
        ("int4", INT4, "Integers of 4 bits, 32 of which share a scale; a sixth larger than MXFP4"),
        ("bf16", BF16, "BF16, an output a row"),
        ("f16", F16, "F16, an output a row"),
        ("f32", F32, "F32, an output a row"),
    ])
}

/// A format for the matrices of attention and of the logits, if any.
pub fn dense() -> impl TypedValueParser<Value = Dense> {
    one_of([
        ("keep", Dense(None), "As they are"),
        ("int8", Dense(Some(INT8)), "Integers of 8 bits, 32 of which share a scale"),
        (
            "int4",
            Dense(Some(INT4)),
            "Integers of 4 bits, 32 of which share a scale; of 8 for the logits",
        ),
        ("bf16", Dense(Some(BF16)), "BF16"),
        ("f16", Dense(Some(F16)), "F16"),
        ("f32", Dense(Some(F32)), "F32"),
    ])
}

/// A format, or none: clap takes an `Option` for an option that may be missing.
#[derive(Clone, Copy, Debug)]
pub struct Dense(pub Option<MatrixFormat>);

/// What a model computes in.
pub fn compute() -> impl TypedValueParser<Value = DType> {
    one_of([("f32", DType::F32, ""), ("f16", DType::F16, ""), ("bf16", DType::BF16, "")])
}

/// One of ONNX Runtime's execution providers.
pub fn provider() -> impl TypedValueParser<Value = Provider> {
    one_of([
        ("cpu", Provider::Cpu, "Any processor"),
        ("cuda", Provider::Cuda, "NVIDIA's GPUs"),
        ("webgpu", Provider::WebGpu, "GPUs, natively or in a browser"),
    ])
}

fn one_of<T, const N: usize>(words: [Word<T>; N]) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    let value = |(word, _, help): &Word<T>| match *help {
        "" => PossibleValue::new(*word),
        help => PossibleValue::new(*word).help(help),
    };
    PossibleValuesParser::new(words.each_ref().map(value)).map(move |given| {
        let same = words.iter().find(|(word, ..)| *word == given);
        same.expect("one of the possible ones").1.clone()
    })
}
