//! Rows converted side by side, as many at once as memory allows.

use std::sync::Mutex;
use std::thread::available_parallelism;

use rayon::prelude::*;

use super::{Conversion, Unit};
use crate::progress::Progress;
use crate::tensor::Rounding;
use crate::weights::pieces::{Files, Piece};
use crate::weights::store::Visit;
use crate::weights::{Error, Result, Weight};

/// Bytes that what is made of rows under way may take. What is read for it is about a
/// megabyte for each thread.
const MEMORY: u64 = 80 << 20;

/// Why the work ends before all is done: both stop the others.
enum End {
    /// The answer was no.
    Enough,
    Failed(Error),
}

/// Converts everything, with a place in the file for each product, until the answer
/// is no; nothing then. Each thread reads, converts and hands out what it has made, so
/// that all three go on side by side.
pub fn convert(
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Option<Rounding>> {
    let largest = conversion.units().next().map_or(0, |unit| {
        conversion.places(&unit).iter().map(|place| place.end - place.start).sum()
    });
    let most = (MEMORY / largest.max(1)).max(1) as usize;
    let threads = available_parallelism().map_or(1, usize::from).min(most);
    convert_on(threads, conversion, products, progress, visit)
}

/// The same on so many threads.
fn convert_on(
    threads: usize,
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Option<Rounding>> {
    // What rows are read from and made in serves the next ones: fresh pages cost more
    // than what is done with them.
    let rooms: Mutex<Vec<(Files, Vec<Vec<u8>>)>> = Mutex::default();
    let one = |unit: Unit| {
        if progress.is_cancelled() {
            return Err(End::Failed(Error::Interrupted));
        }
        let places = conversion.places(&unit);
        let idle = rooms.lock().expect("nobody panics with it").pop();
        let (mut files, mut made) =
            idle.unwrap_or_else(|| (Files::default(), vec![Vec::new(); places.len()]));
        for (made, place) in made.iter_mut().zip(&places) {
            made.resize((place.end - place.start) as usize, 0);
        }
        let rounding = conversion.make(&unit, &mut files, &mut made);
        let rounding = rounding.map_err(End::Failed)?;
        for (((weight, start), bytes), place) in products.iter().zip(&made).zip(&places) {
            let go_on = visit(weight, start + place.start, Piece::Made(bytes));
            if !go_on.map_err(End::Failed)? {
                return Err(End::Enough);
            }
        }
        rooms.lock().expect("nobody panics with it").push((files, made));
        Ok(rounding)
    };
    let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let workers = workers.map_err(|error| Error::Threads(error.to_string()))?;
    // In the order of rows, so that sums are the same on any number of threads.
    let units: Vec<Unit> = conversion.units().collect();
    let all: Vec<Rounding> = match workers.install(|| units.into_par_iter().map(one).collect()) {
        Ok(all) => all,
        Err(End::Enough) => return Ok(None),
        Err(End::Failed(error)) => return Err(error),
    };
    let mut sum = Rounding::default();
    all.into_iter().for_each(|rounding| sum += rounding);
    conversion.check(&sum)?;
    Ok(Some(sum))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::progress::Silent;
    use crate::tensor::{DType, ints, mxfp4};
    use crate::weights::{Format, Matrix, Recipe, Role, Source};

    /// Experts, `out` and `in`. A slab ends within the rows, whose length does not
    /// divide it; the columns are some tiles and a part of one.
    const SIZES: [usize; 3] = [3, 130, 1056];

    /// Codes and scales in which every row, column and expert is another one.
    fn coded() -> (Vec<u8>, Vec<u8>) {
        let [experts, out, inn] = SIZES;
        let mixed = |at: usize| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
        let blocks = (0..experts * out * inn / 2).map(mixed).collect();
        let scales = (0..experts * out * inn / 32).map(|at| 110 + mixed(at) % 20).collect();
        (blocks, scales)
    }

    /// The number of each place `[experts, out, in]`, by the format's own words.
    fn numbers((blocks, scales): &(Vec<u8>, Vec<u8>)) -> Vec<f32> {
        let codes = blocks.iter().flat_map(|byte| [byte & 15, byte >> 4]);
        let number = |(at, code): (usize, u8)| {
            mxfp4::E2M1[usize::from(code)] * 2f32.powi(i32::from(scales[at / 32]) - 127)
        };
        codes.enumerate().map(number).collect()
    }

    fn stored(file: &Path, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Weight {
        let path = file.join(name);
        std::fs::write(&path, bytes).unwrap();
        let source = Source { file: path.into(), range: 0..bytes.len() as u64 };
        let shape = shape.iter().map(|size| *size as u64).collect();
        Weight { name: format!("matrix.{name}"), dtype, shape, recipe: Recipe::Bytes(source) }
    }

    /// A stored number, by its format's own words.
    fn one(dtype: DType, bytes: &[u8]) -> f32 {
        let bits = || u16::from_le_bytes(bytes.try_into().unwrap());
        match dtype {
            DType::BF16 => f32::from_bits(u32::from(bits()) << 16),
            DType::F16 => half::f16::from_bits(bits()).to_f32(),
            _ => f32::from_le_bytes(bytes.try_into().unwrap()),
        }
    }

    /// The same matrices in every form.
    fn forms(home: &Path) -> Vec<Matrix> {
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
        let (rows, columns) = ([experts, out, inn], [experts, inn, out]);
        vec![
            Matrix::Mxfp4 {
                blocks: stored(home, "blocks", DType::U8, &[experts, out, inn / 32, 16], &coded.0),
                scales: stored(home, "scales", DType::U8, &[experts, out, inn / 32], &coded.1),
            },
            Matrix::OutputMajor(stored(home, "bf16", DType::BF16, &rows, &upper)),
            Matrix::OutputMajor(stored(home, "f32", DType::F32, &rows, &in_order)),
            Matrix::InputMajor(stored(home, "f32_t", DType::F32, &columns, &turned)),
        ]
    }

    fn converted(matrix: &Matrix, to: Format, accept_rounding: bool) -> Matrix {
        matrix.converted("matrix", Role::Experts, to, accept_rounding).unwrap()
    }

    /// What comes out on so many threads: each product's bytes, and the rounding.
    fn made(matrix: &Matrix, threads: usize) -> (Vec<Vec<u8>>, Rounding) {
        let weights = matrix.weights();
        let Recipe::Converted(conversion, _) = &weights[0].recipe else { panic!("{matrix:?}") };
        let products: Vec<_> = weights.into_iter().zip([0, 1 << 40]).collect();
        let pieces = Mutex::new(BTreeMap::new());
        let visit = |_: &Weight, place, piece: Piece| {
            let Piece::Made(bytes) = piece else { panic!("made") };
            assert_eq!(pieces.lock().unwrap().insert(place, bytes.to_vec()), None);
            Ok(true)
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
        (products.iter().map(|(_, first)| product(*first)).collect(), rounding.unwrap())
    }

    #[test]
    fn every_form_becomes_every_format_on_any_number_of_threads() {
        let home = tempfile::tempdir().unwrap();
        let (expected, mut four) = (numbers(&coded()), None);
        for matrix in forms(home.path()) {
            for format in Format::ALL {
                let converted = converted(&matrix, format, false);
                if converted == matrix {
                    continue;
                }
                let (products, rounding) = made(&converted, 1);
                assert_eq!((products.clone(), rounding), made(&converted, 5));
                assert_eq!(rounding.numbers, expected.len() as u64);
                if format == Format::Ints(ints::Bits::Four) {
                    // Not exact, and the same whatever form it was made of.
                    let codes = four.get_or_insert(products.clone());
                    assert_eq!(*codes, products);
                    assert!((0.05..0.1).contains(&rounding.relative_error()), "{rounding:?}");
                    continue;
                }
                assert_eq!(rounding.changed, 0);
                let found: Vec<f32> = match (format, &products[..]) {
                    (Format::Mxfp4, [blocks, scales]) => numbers(&(blocks.clone(), scales.clone())),
                    (Format::Mxfp4Columns, [columns, scales]) => {
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
                    (Format::Ints(_), [codes, scales]) => {
                        let code = |(at, code): (usize, &u8)| {
                            let scale = scales[at / 32 * 4..][..4].try_into().unwrap();
                            (f32::from(*code) - 128.0) * f32::from_le_bytes(scale)
                        };
                        codes.iter().enumerate().map(code).collect()
                    }
                    (Format::Numbers(dtype), [stored]) => stored
                        .chunks(dtype.size() as usize)
                        .map(|bytes| one(dtype, bytes))
                        .collect(),
                    _ => panic!("one product or two"),
                };
                // Integers have one zero only.
                let bits = |n: &f32| match format {
                    Format::Ints(_) => (n + 0.0).to_bits(),
                    _ => n.to_bits(),
                };
                let same = found.iter().map(bits).eq(expected.iter().map(bits));
                assert!(same, "{} to {format}", matrix.weights()[0].name);
            }
        }
    }

    /// Its outcome may be rounded: what is asked for next is made of the source.
    #[test]
    fn what_is_converted_already_is_made_of_its_source() {
        let home = tempfile::tempdir().unwrap();
        for matrix in forms(home.path()) {
            let bf16 = converted(&matrix, Format::Numbers(DType::BF16), true);
            let direct = converted(&matrix, Format::Mxfp4, false);
            assert_eq!(converted(&bf16, Format::Mxfp4, false), direct);
            assert_eq!(converted(&direct, Format::Numbers(DType::BF16), true), bf16);
        }
    }

    #[test]
    fn a_no_stops_the_others() {
        let home = tempfile::tempdir().unwrap();
        let (experts, numbers) = (64, vec![0; 64 * 32 * 32 * 4]);
        let weight = stored(home.path(), "w", DType::F32, &[experts, 32, 32], &numbers);
        let matrix = Matrix::OutputMajor(weight);
        let matrix = converted(&matrix, Format::Numbers(DType::BF16), false);
        let weights = matrix.weights();
        let Recipe::Converted(conversion, _) = &weights[0].recipe else { panic!("{matrix:?}") };
        for answer in [|| Ok(false), || Err(Error::Interrupted)] {
            let visits = AtomicUsize::new(0);
            let visit = |_: &Weight, _, _: Piece| {
                visits.fetch_add(1, Ordering::Relaxed);
                answer()
            };
            let outcome = convert_on(2, conversion, &[(weights[0], 0)], &Silent, &visit);
            assert!(!matches!(outcome, Ok(Some(_))));
            assert!(visits.into_inner() <= 2, "each thread hears no once");
        }
    }
}
