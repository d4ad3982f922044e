//! Conversions of all formats, compared with the values that they stand for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gpt_oss_export::error::{Error, Result};
use gpt_oss_export::files::FileRange;
use gpt_oss_export::progress::Silent;
use gpt_oss_export::tensor::ints::{Bits, dequantize};
use gpt_oss_export::tensor::{DType, Rounding, decode, mxfp4};
use gpt_oss_export::weights::{Matrix, MatrixFormat, Recipe, Role, Weight, convert};
use rayon::ThreadPoolBuilder;

use crate::support::Home;

/// Experts, `out` and `in`: chunks end within slabs, and the last tile is not full.
const SIZES: [usize; 3] = [3, 130, 1056];

/// Codes and scales that differ in every row, column and expert, as far as NVFP4 has them.
fn coded() -> [Vec<u8>; 2] {
    let count = SIZES.iter().product::<usize>();
    let mixed = |at: usize| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
    let scales = (0..count / 32).map(|at| 110 + mixed(at) % 18).collect();
    [(0..count / 2).map(mixed).collect(), scales]
}

/// The values `[experts, out, in]` that parts stand for, block by block.
fn values(format: MatrixFormat, parts: &[Vec<u8>]) -> Vec<f32> {
    match (format, parts) {
        (MatrixFormat::Mxfp4, [codes, scales]) => {
            let blocks = mxfp4::Blocks { scales, codes: codes.as_chunks().0 };
            blocks.iter().flat_map(|block| mxfp4::dequantize(&block)).collect()
        }
        (MatrixFormat::Nvfp4, [pairs, scales, globals]) => {
            let [experts, out, inn] = SIZES;
            let (scales, globals) = (decode(DType::F8E4M3, scales), decode(DType::F32, globals));
            let value = |at: usize| {
                let scale = scales[at / 16] * globals[at / (out * inn)];
                mxfp4::pair(pairs[at / 2])[at % 2] * scale
            };
            (0..experts * out * inn).map(value).collect()
        }
        (MatrixFormat::Int4x2, [digits, scales]) => {
            let [experts, out, inn] = SIZES;
            let terms = values(MatrixFormat::Int(Bits::Four), &[digits.clone(), scales.clone()]);
            let value = |at: usize| {
                let (row, column) = (at / inn, at % inn);
                terms[2 * row * inn + column] + terms[(2 * row + 1) * inn + column]
            };
            (0..experts * out * inn).map(value).collect()
        }
        (MatrixFormat::Int(bits), [codes, scales]) => {
            let blocks = codes.chunks(bits.block_bytes() as usize).zip(scales.as_chunks().0);
            let values = blocks
                .flat_map(|(codes, scale)| dequantize(bits, codes, f32::from_le_bytes(*scale)));
            values.collect()
        }
        (MatrixFormat::Int8x2, [high, low, scales]) => {
            let digit = |byte: &u8| f32::from(*byte as i8);
            let scale = |at: usize| f32::from_le_bytes(scales.as_chunks().0[at / SIZES[2]]);
            let digits = high.iter().zip(low).enumerate();
            digits.map(|(at, (h, l))| scale(at) * (256.0 * digit(h) + digit(l))).collect()
        }
        (MatrixFormat::Float(dtype), [stored]) => decode(dtype, stored),
        _ => panic!("one part, two or three"),
    }
}

/// A matrix whose parts have these bytes.
fn matrix(home: &Path, name: &str, format: MatrixFormat, parts: &[Vec<u8>]) -> Matrix {
    let [experts, out, inn] = SIZES.map(|size| size as u64);
    Matrix::new("matrix", format, Some(experts), [out, inn], |(at, part)| {
        let path = home.join(format!("{name}.{}", part.name));
        std::fs::write(&path, &parts[at]).unwrap();
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
    let values = values(MatrixFormat::Mxfp4, &coded);
    let in_order = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let upper = values.iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect();
    let mut turned = Vec::new();
    for expert in values.chunks(out * inn) {
        for column in 0..inn {
            turned.extend((0..out).flat_map(|row| expert[row * inn + column].to_le_bytes()));
        }
    }
    let mxfp4 = matrix(home, "mxfp4", MatrixFormat::Mxfp4, &coded);
    let made_of_it = [MatrixFormat::Int(Bits::Eight), MatrixFormat::Int4x2, MatrixFormat::Nvfp4];
    let [int8, digits, nvfp4] = made_of_it.map(|format| {
        let (parts, _) = made(&converted(&mxfp4, format, false), 1);
        matrix(home, &format.to_string(), format, &parts)
    });
    vec![
        mxfp4,
        int8,
        digits,
        nvfp4,
        matrix(home, "bf16", MatrixFormat::Float(DType::BF16), &[upper]),
        matrix(home, "f32", MatrixFormat::Float(DType::F32), &[in_order]),
        matrix(home, "f32_t", MatrixFormat::FloatTransposed(DType::F32), &[turned]),
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
    let conversion = matrix.conversion().unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| convert(conversion, &Silent, &visit))
}

/// The bytes of each part, those that the source has too as they are, and the rounding.
fn made(matrix: &Matrix, threads: usize) -> (Vec<Vec<u8>>, Rounding) {
    let pieces = Mutex::new(BTreeMap::new());
    let visit = |part: usize, offset: u64, bytes: &[u8]| {
        assert_eq!(pieces.lock().unwrap().insert((part, offset), bytes.to_vec()), None);
        Ok(())
    };
    let rounding = make(matrix, threads, visit).unwrap();
    let kept = matrix.parts.iter().map(|part| match &part.recipe {
        Recipe::Slice(FileRange { file, .. }) => std::fs::read(file).unwrap(),
        _ => Vec::new(),
    });
    let mut parts: Vec<_> = kept.collect();
    let first = parts.iter().take_while(|it| !it.is_empty()).count();
    for ((part, offset), bytes) in pieces.into_inner().unwrap() {
        let part = &mut parts[first + part];
        assert_eq!(offset, part.len() as u64, "neither holes nor overlaps");
        part.extend(bytes);
    }
    (parts, rounding)
}

#[test]
fn converts_every_format_to_every_target_on_any_number_of_threads() {
    let home = Home::new();
    let expected = values(MatrixFormat::Mxfp4, &coded());
    let mut rounded = BTreeMap::new();
    for matrix in formats(&home) {
        for format in MatrixFormat::TARGETS {
            let converted = converted(&matrix, format, false);
            if converted == matrix {
                continue;
            }
            let (products, rounding) = made(&converted, 1);
            assert_eq!((products.clone(), rounding), made(&converted, 5));
            assert_eq!(rounding.values, expected.len() as u64);
            // Not exact, and the same whatever form it was made of.
            let error = match format {
                MatrixFormat::Int(Bits::Four) => 0.05..0.1,
                MatrixFormat::Int8x2 => 1e-6..1e-4,
                _ => 0.0..0.0,
            };
            if !error.is_empty() {
                assert!(error.contains(&rounding.relative_error()), "{rounding:?}");
                let same = rounded.entry(format.to_string()).or_insert(products.clone());
                assert_eq!(*same, products);
                let found = values(format, &products).into_iter().map(f64::from);
                let squares = found.zip(&expected).map(|(a, b)| (a - f64::from(*b)).powi(2));
                assert!((squares.sum::<f64>() / rounding.error - 1.0).abs() < 1e-6);
                continue;
            }
            assert_eq!(rounding.changed, 0);
            // Integers have one zero only.
            let are_integers = |it: MatrixFormat| it.is_int() || it == MatrixFormat::Int4x2;
            let has_integers = are_integers(matrix.format) || are_integers(format);
            let bits = |n: &f32| if has_integers { (n + 0.0).to_bits() } else { n.to_bits() };
            let found = values(format, &products);
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
    let matrix = converted(&formats(&home)[3], MatrixFormat::Float(DType::BF16), false);
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
