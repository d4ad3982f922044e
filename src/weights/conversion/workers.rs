//! Row chunks converted in parallel, as many at once as memory allows.

use std::sync::Mutex;
use std::thread::available_parallelism;

use rayon::prelude::*;

use super::rows::RowChunk;
use crate::error::{Error, Result, err};
use crate::progress::Progress;
use crate::tensor::Rounding;
use crate::weights::reader::{Chunk, FileCache};
use crate::weights::{Conversion, Weight};

/// Receives bytes of a weight, which have this offset in the file; from any thread.
pub type Visit<'v> = dyn Fn(&Weight, u64, Chunk) -> Result<()> + Sync + 'v;

/// Bytes of converted chunks under way. Each thread reads about a megabyte besides.
const MEMORY: u64 = 80 << 20;

/// Runs a conversion and hands out its bytes, with the file offset of each product. Each
/// thread reads, converts and hands out its chunks, so that all three overlap.
pub fn convert(
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Rounding> {
    let largest = conversion.row_chunks().next().map_or(0, |chunk| {
        conversion.ranges(&chunk).iter().map(|range| range.end - range.start).sum()
    });
    let most = (MEMORY / largest.max(1)).max(1) as usize;
    let threads = available_parallelism().map_or(1, usize::from).min(most);
    convert_on(threads, conversion, products, progress, visit)
}

fn convert_on(
    threads: usize,
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Rounding> {
    // Buffers are reused across chunks: page faults cost more than the conversion.
    let buffers: Mutex<Vec<(FileCache, Vec<Vec<u8>>)>> = Mutex::default();
    let one = |chunk: RowChunk| {
        if progress.is_cancelled() {
            return Err(Error::interrupted());
        }
        let ranges = conversion.ranges(&chunk);
        let idle = buffers.lock().expect("no panic holds it").pop();
        let (mut files, mut parts) =
            idle.unwrap_or_else(|| (FileCache::default(), vec![Vec::new(); ranges.len()]));
        for (part, range) in parts.iter_mut().zip(&ranges) {
            part.resize((range.end - range.start) as usize, 0);
        }
        let rounding = conversion.make(&chunk, &mut files, &mut parts)?;
        for (((weight, start), bytes), range) in products.iter().zip(&parts).zip(&ranges) {
            visit(weight, start + range.start, Chunk::Bytes(bytes))?;
        }
        buffers.lock().expect("no panic holds it").push((files, parts));
        Ok(rounding)
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| err!("cannot start conversion threads: {error}"))?;
    let chunks: Vec<RowChunk> = conversion.row_chunks().collect();
    let all: Result<Vec<Rounding>> = pool.install(|| chunks.into_par_iter().map(one).collect());
    // Added in the order of rows, so that sums are the same on any number of threads.
    let mut sum = Rounding::default();
    all?.into_iter().for_each(|rounding| sum += rounding);
    conversion.check(&sum)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::files::FileRange;
    use crate::progress::Silent;
    use crate::tensor::{DType, ints, mxfp4};
    use crate::weights::{Matrix, MatrixFormat, Recipe, Role};

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

    /// A stored value by the definition of its dtype.
    fn one(dtype: DType, bytes: &[u8]) -> f32 {
        let bits = || u16::from_le_bytes(bytes.try_into().unwrap());
        match dtype {
            DType::BF16 => f32::from_bits(u32::from(bits()) << 16),
            DType::F16 => half::f16::from_bits(bits()).to_f32(),
            _ => f32::from_le_bytes(bytes.try_into().unwrap()),
        }
    }

    /// The same matrices in every format.
    fn formats(home: &Path) -> Vec<Matrix> {
        let [experts, out, inn] = SIZES;
        let coded = coded();
        let numbers = numbers(&coded);
        let at = |e: usize, o: usize, i: usize| numbers[(e * out + o) * inn + i];
        let ranges =
            |a: Range<usize>, b: Range<usize>| a.flat_map(move |x| b.clone().map(move |y| (x, y)));
        let in_order = numbers.iter().flat_map(|number| number.to_le_bytes());
        let in_order: Vec<u8> = in_order.collect();
        let upper: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()[2..].to_vec()).collect();
        let turned: Vec<u8> = (0..experts)
            .flat_map(|e| ranges(0..inn, 0..out).flat_map(move |(i, o)| at(e, o, i).to_le_bytes()))
            .collect();
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

    /// The bytes of each product on so many threads, and the rounding.
    fn made(matrix: &Matrix, threads: usize) -> (Vec<Vec<u8>>, Rounding) {
        let weights = matrix.weights();
        let (conversion, _) = weights[0].conversion().unwrap();
        let products: Vec<_> = weights.iter().zip([0, 1 << 40]).collect();
        let pieces = Mutex::new(BTreeMap::new());
        let visit = |_: &Weight, place, chunk: Chunk| {
            let Chunk::Bytes(bytes) = chunk else { panic!("converted") };
            assert_eq!(pieces.lock().unwrap().insert(place, bytes.to_vec()), None);
            Ok(())
        };
        let rounding = convert_on(threads, conversion, &products, &Silent, &visit).unwrap();
        let pieces = pieces.into_inner().unwrap();
        let product = |first: u64| {
            let pieces = pieces.range(first..first + (1 << 40));
            pieces.fold(Vec::new(), |mut all, (place, bytes)| {
                assert_eq!(*place, first + all.len() as u64, "neither holes nor overlaps");
                all.extend_from_slice(bytes);
                all
            })
        };
        (products.iter().map(|(_, first)| product(*first)).collect(), rounding)
    }

    #[test]
    fn converts_every_format_to_every_target_on_any_number_of_threads() {
        let home = tempfile::tempdir().unwrap();
        let (expected, mut four) = (numbers(&coded()), None);
        for matrix in formats(home.path()) {
            for format in MatrixFormat::TARGETS {
                let converted = converted(&matrix, format, false);
                if converted == matrix {
                    continue;
                }
                let (products, rounding) = made(&converted, 1);
                assert_eq!((products.clone(), rounding), made(&converted, 5));
                assert_eq!(rounding.values, expected.len() as u64);
                if format == MatrixFormat::Int(ints::Bits::Four) {
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
                            let (expert, row, column) =
                                (at / (out * inn), at / inn % out, at % inn);
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
                    (MatrixFormat::Float(dtype), [stored]) => stored
                        .chunks(dtype.size() as usize)
                        .map(|bytes| one(dtype, bytes))
                        .collect(),
                    _ => panic!("one product or two"),
                };
                // Integers have one zero only.
                let bits = |n: &f32| match format {
                    MatrixFormat::Int(_) => (n + 0.0).to_bits(),
                    _ => n.to_bits(),
                };
                let same = found.iter().map(bits).eq(expected.iter().map(bits));
                assert!(same, "{} to {format}", matrix.weights()[0].name);
            }
        }
    }

    /// The outcome of the first conversion may be rounded.
    #[test]
    fn converts_anew_from_the_source() {
        let home = tempfile::tempdir().unwrap();
        for matrix in formats(home.path()) {
            let bf16 = converted(&matrix, MatrixFormat::Float(DType::BF16), true);
            let direct = converted(&matrix, MatrixFormat::Mxfp4, false);
            assert_eq!(converted(&bf16, MatrixFormat::Mxfp4, false), direct);
            assert_eq!(converted(&direct, MatrixFormat::Float(DType::BF16), true), bf16);
        }
    }

    #[test]
    fn an_error_stops_all_threads() {
        let home = tempfile::tempdir().unwrap();
        let matrix = converted(&formats(home.path())[2], MatrixFormat::Float(DType::BF16), false);
        let (conversion, _) = matrix.weights()[0].conversion().unwrap();
        let visits = AtomicUsize::new(0);
        let visit = |_: &Weight, _, _: Chunk| {
            visits.fetch_add(1, Ordering::Relaxed);
            Err(Error::interrupted())
        };
        let products = [(&matrix.weights()[0], 0)];
        assert!(convert_on(2, conversion, &products, &Silent, &visit).is_err());
        assert!(visits.into_inner() <= 2, "each thread fails once");
    }
}
