//! Conversions of all formats, compared with the values that they stand for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gpt_oss_export::error::{Error, Result};
use gpt_oss_export::files::FileRange;
use gpt_oss_export::progress::Silent;
use gpt_oss_export::tensor::ints::Bits;
use gpt_oss_export::tensor::{DType, Rounding, decode, mxfp4};
use gpt_oss_export::weights::{Matrix, MatrixFormat, Recipe, Role, Weight, convert};
use rayon::ThreadPoolBuilder;

use crate::support::Home;

/// Experts, `out` and `in`: slabs end within rows, and the last tile is not full.
const SIZES: [usize; 3] = [3, 130, 1056];

/// Codes and scales that differ in every row, column and expert.
fn coded() -> (Vec<u8>, Vec<u8>) {
    let [experts, out, inn] = SIZES;
    let mixed = |at: usize| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
    let blocks = (0..experts * out * inn / 2).map(mixed).collect();
    let scales = (0..experts * out * inn / 32).map(|at| 110 + mixed(at) % 20).collect();
    (blocks, scales)
}

/// Values `[experts, out, in]` by the definition of MXFP4.
fn numbers((blocks, scales): &(Vec<u8>, Vec<u8>)) -> Vec<f32> {
    let codes = blocks.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    let number = |(at, code): (usize, u8)| {
        mxfp4::E2M1[usize::from(code)] * 2f32.powi(i32::from(scales[at / 32]) - 127)
    };
    codes.enumerate().map(number).collect()
}

/// A matrix whose parts have these bytes.
fn matrix(home: &Path, name: &str, format: MatrixFormat, parts: &[&[u8]]) -> Matrix {
    let [experts, out, inn] = SIZES.map(|size| size as u64);
    Matrix::new("matrix", format, Some(experts), [out, inn], |(at, part)| {
        let path = home.join(format!("{name}.{}", part.name));
        std::fs::write(&path, parts[at]).unwrap();
        let source = FileRange { file: path.into(), range: 0..parts[at].len() as u64 };
        let (dtype, shape, kind) = (part.dtype, part.shape, part.kind);
        let name = format!("matrix.{}", part.name);
        Ok(Weight { name, dtype, shape, kind, recipe: Recipe::Slice(source) })
    })
    .unwrap()
}

/// The same matrices in every format.
fn formats(home: &Path) -> Vec<Matrix> {
    let [_, out, inn] = SIZES;
    let coded = coded();
    let numbers = numbers(&coded);
    let in_order: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let upper: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()[2..].to_vec()).collect();
    let mut turned = Vec::new();
    for expert in numbers.chunks(out * inn) {
        for column in 0..inn {
            turned.extend((0..out).flat_map(|row| expert[row * inn + column].to_le_bytes()));
        }
    }
    vec![
        matrix(home, "mxfp4", MatrixFormat::Mxfp4, &[&coded.0, &coded.1]),
        matrix(home, "bf16", MatrixFormat::Float(DType::BF16), &[&upper]),
        matrix(home, "f32", MatrixFormat::Float(DType::F32), &[&in_order]),
        matrix(home, "f32_t", MatrixFormat::FloatTransposed(DType::F32), &[&turned]),
    ]
}

fn converted(matrix: &Matrix, to: MatrixFormat, accept_rounding: bool) -> Matrix {
    matrix.converted("matrix", Role::Experts, to, accept_rounding).unwrap()
}

/// Makes a converted matrix on so many threads.
fn make(
    matrix: &Matrix,
    threads: usize,
    visit: impl Fn(usize, u64, &[u8]) -> Result<()> + Sync,
) -> Result<Rounding> {
    let (conversion, _) = matrix.parts[0].conversion().unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| convert(conversion, &Silent, &visit))
}

/// The bytes of each part, and the rounding.
fn made(matrix: &Matrix, threads: usize) -> (Vec<Vec<u8>>, Rounding) {
    let pieces = Mutex::new(BTreeMap::new());
    let visit = |part: usize, offset: u64, bytes: &[u8]| {
        assert_eq!(pieces.lock().unwrap().insert((part, offset), bytes.to_vec()), None);
        Ok(())
    };
    let rounding = make(matrix, threads, visit).unwrap();
    let mut parts = vec![Vec::new(); matrix.parts.len()];
    for ((part, offset), bytes) in pieces.into_inner().unwrap() {
        assert_eq!(offset, parts[part].len() as u64, "neither holes nor overlaps");
        parts[part].extend(bytes);
    }
    (parts, rounding)
}

#[test]
fn converts_every_format_to_every_target_on_any_number_of_threads() {
    let home = Home::new();
    let (expected, mut four) = (numbers(&coded()), None);
    for matrix in formats(&home) {
        for format in MatrixFormat::TARGETS {
            let converted = converted(&matrix, format, false);
            if converted == matrix {
                continue;
            }
            let (products, rounding) = made(&converted, 1);
            assert_eq!((products.clone(), rounding), made(&converted, 5));
            assert_eq!(rounding.values, expected.len() as u64);
            if format == MatrixFormat::Int(Bits::Four) {
                // Not exact, and the same whatever form it was made of.
                let codes = four.get_or_insert(products.clone());
                assert_eq!(*codes, products);
                assert!((0.05..0.1).contains(&rounding.relative_error()), "{rounding:?}");
                continue;
            }
            assert_eq!(rounding.changed, 0);
            let found: Vec<f32> = match (format, &products[..]) {
                (MatrixFormat::Mxfp4, [blocks, scales]) => {
                    numbers(&(blocks.clone(), scales.clone()))
                }
                (MatrixFormat::Mxfp4ColMajor, [columns, scales]) => {
                    let [experts, out, inn] = SIZES;
                    let code = |at: usize| {
                        let (expert, row, column) = (at / (out * inn), at / inn % out, at % inn);
                        let byte = columns[(expert * inn + column) * (out / 2) + row / 2];
                        let scale = 2f32.powi(i32::from(scales[at / 32]) - 127);
                        mxfp4::E2M1[usize::from(byte >> (4 * (row % 2)) & 15)] * scale
                    };
                    (0..experts * out * inn).map(code).collect()
                }
                (MatrixFormat::Int(_), [codes, scales]) => {
                    let code = |(at, code): (usize, &u8)| {
                        let scale = scales[at / 32 * 4..][..4].try_into().unwrap();
                        (f32::from(*code) - 128.0) * f32::from_le_bytes(scale)
                    };
                    codes.iter().enumerate().map(code).collect()
                }
                (MatrixFormat::Float(dtype), [stored]) => decode(dtype, stored),
                _ => panic!("one product or two"),
            };
            // Integers have one zero only.
            let bits = |n: &f32| match format {
                MatrixFormat::Int(_) => (n + 0.0).to_bits(),
                _ => n.to_bits(),
            };
            let same = found.iter().map(bits).eq(expected.iter().map(bits));
            assert!(same, "{} to {format}", matrix.parts[0].name);
        }
    }
}

/// The outcome of the first conversion may be rounded.
#[test]
fn converts_anew_from_the_source() {
    let home = Home::new();
    for matrix in formats(&home) {
        let bf16 = converted(&matrix, MatrixFormat::Float(DType::BF16), true);
        let direct = converted(&matrix, MatrixFormat::Mxfp4, false);
        assert_eq!(converted(&bf16, MatrixFormat::Mxfp4, false), direct);
        assert_eq!(converted(&direct, MatrixFormat::Float(DType::BF16), true), bf16);
    }
}

#[test]
fn an_error_stops_all_threads() {
    let home = Home::new();
    let matrix = converted(&formats(&home)[2], MatrixFormat::Float(DType::BF16), false);
    for threads in 1..=4 {
        let visits = AtomicUsize::new(0);
        let visit = |_: usize, _: u64, _: &[u8]| {
            visits.fetch_add(1, Ordering::Relaxed);
            Err(Error::interrupted())
        };
        assert!(make(&matrix, threads, visit).is_err());
        assert!(visits.into_inner() <= threads, "each thread fails once");
    }
}
