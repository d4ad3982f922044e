//! Matrices in another format: chunks of rows are read, converted in blocks of 32 elements
//! along `in`, and handed out, as many at once as memory allows.

mod blocks;
mod merge;

use std::env;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;
use std::thread::available_parallelism;

use rayon::prelude::*;

use super::format::MatrixFormat;
use super::reader::{FileCache, not_finite_of, restore};
use super::recipe::{Conversion, Matrix};
use crate::error::{Error, Result, Setting, ensure, err};
use crate::progress::Progress;
use crate::tensor::{self, BLOCK, BLOCK_LENGTH, DType, Rounding, ints, mxfp4, nvfp4};
use blocks::SourceBlocks;
use merge::Addends;

/// Receives the index of a part of the matrix, an offset in it, and the bytes there; from
/// any thread.
type Visit<'v> = dyn Fn(usize, u64, &[u8]) -> Result<()> + Sync + 'v;

/// Bytes of converted chunks under way. Each thread reads about a megabyte besides.
const MEMORY: u64 = 80 << 20;
/// Elements converted at once; they fit the processor's cache.
const CHUNK: u64 = 1 << 19;
/// Bytes of an element while it is added up, in f64 and f32.
const SUM: u64 = 12;
/// The same for a transposed matrix: a chunk reads pieces of all its rows, which must be
/// long enough to be worth a call.
const TRANSPOSE_CHUNK: u64 = 1 << 23;

/// Runs a conversion and hands out its bytes. Each thread reads, converts and hands out its
/// chunks, so that all three overlap. There are as many threads as in the caller's pool, as
/// `RAYON_NUM_THREADS` says, or as processors, unless that takes too much memory.
pub fn convert(
    conversion: &Conversion,
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Rounding> {
    let matrix_bytes = conversion.matrix_bytes();
    let kept = conversion.kept().len();
    let bytes_of = |rows: u64, of_matrix: &u64| rows * of_matrix / conversion.from.out;
    let addends = || Addends::read(conversion.merge.as_ref(), &mut FileCache::default());
    let addends = conversion.is_by_value().then(addends).transpose()?;
    let mut largest = bytes_of(conversion.chunk_rows(), &matrix_bytes.iter().sum());
    if addends.is_some() {
        largest += conversion.chunk_rows() * conversion.from.inn * SUM;
    } else if conversion.to == MatrixFormat::Int8x2 {
        largest += conversion.chunk_rows() * conversion.from.inn * DType::F32.size();
    }
    let most = (MEMORY / largest.max(1)).max(1) as usize;
    let threads = usual_threads().min(most);
    // Buffers are reused across chunks: page faults cost more than the conversion.
    let idle: Mutex<Vec<(FileCache, Vec<Vec<u8>>)>> = Mutex::default();
    let convert_rows = |rows: Range<u64>| {
        progress.check_cancelled()?;
        let buffers = idle.lock().expect("no panic holds it").pop();
        let (mut files, mut parts) = buffers.unwrap_or_default();
        parts.resize(matrix_bytes.len(), Vec::new());
        for (part, of_matrix) in parts.iter_mut().zip(&matrix_bytes) {
            part.resize(bytes_of(rows.end - rows.start, of_matrix) as usize, 0);
        }
        let mut rounding = Rounding::default();
        if let Some(addends) = &addends {
            let sums = addends.fold(conversion, &rows, &mut files)?;
            rounding = conversion.store_sums(&sums, &mut parts);
        } else if conversion.to == MatrixFormat::Int8x2 {
            let values = conversion.values(&rows, &mut files)?;
            rounding = conversion.store(0, &SourceBlocks::Floats(&values), &mut parts);
        } else {
            conversion.each_blocks(&rows, &mut files, |at, blocks| {
                rounding += conversion.store(at, &blocks, &mut parts);
            })?;
        }
        rounding += conversion.finish(&mut parts);
        for (at, (part, of_matrix)) in parts.iter().zip(&matrix_bytes).skip(kept).enumerate() {
            visit(at, bytes_of(rows.start, of_matrix), part)?;
            progress.advance(part.len() as u64);
        }
        idle.lock().expect("no panic holds it").push((files, parts));
        Ok(rounding)
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(Error::no_thread)?;
    let chunks = conversion.row_chunks();
    let all: Result<Vec<Rounding>> =
        pool.install(|| chunks.into_par_iter().map(convert_rows).collect());
    // Added in the order of rows, so that sums are the same on any number of threads.
    let mut sum = Rounding::default();
    all?.into_iter().for_each(|rounding| sum += rounding);
    conversion.check(&sum)?;
    Ok(sum)
}

/// The number of threads of the caller's pool, or that rayon would start by itself.
fn usual_threads() -> usize {
    // Outside of a pool this would start one, which panics if it cannot.
    if rayon::current_thread_index().is_some() {
        return rayon::current_num_threads();
    }
    let set = env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    set.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get)
}

impl Conversion {
    /// Refuses damaged values, overflow, and rounding that was not accepted. int8, int4 and int8x2
    /// round by their nature, and so does f32 what a merge adds up.
    fn check(&self, outcome: &Rounding) -> Result<()> {
        let (path, format) = (&self.path, self.to);
        let role = self.role.map_or_else(|| "weights".to_owned(), |role| role.to_string());
        let Rounding { values, changed, not_finite, overflowed, .. } = *outcome;
        ensure!(
            not_finite == 0,
            "`{path}`: {}: {}",
            not_finite_of(not_finite, values),
            restore(self.from.parts[0].dtype)
        );
        let exceed = if overflowed == 1 { "value exceeds" } else { "values exceed" };
        ensure!(
            overflowed == 0,
            "`{path}`: {overflowed} of {values} {exceed} the range of {format} and would become infinite: leave the {role} in their format, or choose one of wider range, such as f32"
        );
        let has_merged = self.merge.is_some();
        let is_nvfp4 = format == MatrixFormat::Nvfp4;
        let is_int = format.is_int() || format == MatrixFormat::Int8x2;
        let may_round = is_int || has_merged && format == MatrixFormat::Float(DType::F32);
        if changed > 0 && !self.accept_rounding && !may_round {
            let error = outcome.relative_error();
            if has_merged {
                return Err(err!(
                    "`{path}` with its adapter does not fit {format} exactly: {changed} of {values} values would be rounded, with a relative error of {error:.2e}: {}, or accept the rounding",
                    if is_nvfp4 { "choose integers" } else { "merge it into f32" }
                )
                .with_remedies(self.accepted()));
            }
            return Err(err!(
                "`{path}` does not fit {format} exactly: {changed} of {values} values would be rounded, with a relative error of {error:.2e}: the {role} must {}, or the rounding must be accepted",
                if is_nvfp4 { "become integers" } else { "keep their format" }
            )
            .with_remedies(self.accepted()));
        }
        Ok(())
    }

    /// The settings that accept what is rounded: a provider may have implied the format.
    fn accepted(&self) -> Vec<(Setting, String)> {
        let implied = (self.to == MatrixFormat::Nvfp4)
            .then(|| (Setting::Experts, MatrixFormat::Nvfp4.to_string()));
        implied.into_iter().chain([(Setting::AcceptRounding, String::new())]).collect()
    }

    /// Rows of one matrix that are converted at once.
    fn chunk_rows(&self) -> u64 {
        let Matrix { out, inn, format, .. } = self.from;
        match (format, self.to) {
            // Scales are relative to the largest of a matrix.
            (_, MatrixFormat::Nvfp4) => out,
            (MatrixFormat::FloatTransposed(_), _) => {
                let chunk =
                    if self.merge.is_none() { TRANSPOSE_CHUNK } else { TRANSPOSE_CHUNK / 4 };
                (chunk / inn).clamp(1, out)
            }
            _ => (CHUNK / inn).clamp(1, out),
        }
    }

    /// All rows in chunks, counted over all matrices. A chunk has rows of one matrix.
    fn row_chunks(&self) -> Vec<Range<u64>> {
        let [count, out, _] = self.from.dims();
        let matrices = (0..count).map(|matrix| matrix * out..(matrix + 1) * out);
        let chunks = matrices.flat_map(|Range { start, end }| {
            let starts = (start..end).step_by(self.chunk_rows() as usize);
            starts.map(move |first| first..end.min(first + self.chunk_rows()))
        });
        chunks.collect()
    }

    /// Bytes of one matrix in each part.
    fn matrix_bytes(&self) -> Vec<u64> {
        let Matrix { out, inn, .. } = self.from;
        let parts = self.to.parts(&[], [out, inn]).into_iter();
        parts.map(|part| part.dtype.size() * part.shape.iter().product::<u64>()).collect()
    }

    /// Stores the sums of a chunk, rounded once; how far they are off.
    fn store_sums(&self, sums: &[f64], parts: &mut [Vec<u8>]) -> Rounding {
        let to_f32 = self.to == MatrixFormat::Float(DType::F32);
        let (mut values, rounded) = if to_f32 {
            tensor::nearest(sums)
        } else {
            (sums.iter().map(|sum| tensor::to_odd(*sum)).collect(), Rounding::default())
        };
        // Rows of floats need not be blocks.
        let missing = sums.len().next_multiple_of(BLOCK_LENGTH) - sums.len();
        values.resize(sums.len() + missing, 0.0);
        for part in parts.iter_mut().filter(|_| missing > 0) {
            part.resize(part.len() / sums.len() * values.len(), 0);
        }
        let blocks = SourceBlocks::Floats(values.as_chunks().0);
        let mut stored = self.store(0, &blocks, parts);
        stored.values -= missing as u64;
        for part in parts.iter_mut().filter(|_| missing > 0) {
            part.truncate(part.len() / values.len() * sums.len());
        }
        if to_f32 { rounded } else { stored }
    }

    /// Makes the scales of a whole matrix in NVFP4 of those in MXFP4; how far that makes its values off.
    /// Those that were rounded to MXFP4 count again.
    fn finish(&self, parts: &mut [Vec<u8>]) -> Rounding {
        let (MatrixFormat::Nvfp4, [codes, scales, of_matrix]) = (self.to, parts) else {
            return Rounding::default();
        };
        let codes = codes.as_chunks().0;
        let in_mxfp4 = scales[..codes.len()].to_vec();
        let blocks = mxfp4::Blocks { scales: &in_mxfp4, codes };
        let (scale, rounding) = nvfp4::from_mxfp4(blocks, scales.as_chunks_mut().0);
        of_matrix.copy_from_slice(&scale.to_le_bytes());
        rounding
    }

    /// Stores blocks in the parts of a chunk, from the block `at` on; how far they are off. Digits of 8
    /// bits need whole rows.
    fn store(&self, at: usize, blocks: &SourceBlocks, parts: &mut [Vec<u8>]) -> Rounding {
        let mut rounding = Rounding::default();
        let keeps_codes = !self.kept().is_empty();
        match (self.to, parts) {
            // The scales of NVFP4 are finished later.
            (MatrixFormat::Mxfp4 | MatrixFormat::Nvfp4, [codes, scales, ..]) => {
                for (from, at) in (at..at + blocks.len()).enumerate() {
                    let (block, off) = blocks.in_mxfp4(from);
                    rounding += off;
                    // The scale is too large for the block to keep its codes.
                    if keeps_codes && blocks.codes(from) != Some(&block.codes) {
                        rounding.not_finite += BLOCK;
                    }
                    scales[at] = block.scale;
                    codes.as_chunks_mut().0[at] = block.codes;
                }
            }
            (MatrixFormat::Int4x2, [codes, scales]) => {
                let (codes, scales) = (codes.as_chunks_mut().0, scales.as_chunks_mut().0);
                let groups = (self.from.inn / BLOCK) as usize;
                for (from, at) in (at..at + blocks.len()).enumerate() {
                    let (block, off) = blocks.in_mxfp4(from);
                    rounding += off;
                    // A row has all high digits, then all low ones.
                    let high = at / groups * 2 * groups + at % groups;
                    for (at, digit) in [high, high + groups].into_iter().zip(ints::digits(&block)) {
                        codes[at] = digit.codes;
                        scales[at] = digit.scale.to_le_bytes();
                    }
                }
            }
            (MatrixFormat::Int(bits), [codes, scales]) => {
                let size = bits.block_bytes() as usize;
                let codes = of_blocks(codes, at, blocks.len(), size);
                let mut made = vec![0.0; blocks.len()];
                match blocks {
                    SourceBlocks::Mxfp4(blocks) => {
                        rounding = ints::from_mxfp4(bits, *blocks, codes, &mut made);
                    }
                    SourceBlocks::Floats(values) => {
                        let codes = codes.chunks_exact_mut(size);
                        for ((values, codes), scale) in values.iter().zip(codes).zip(&mut made) {
                            let off;
                            (*scale, off) = ints::quantize(bits, values, codes);
                            rounding += off;
                        }
                    }
                }
                let scales = scales[4 * at..].as_chunks_mut().0.iter_mut();
                scales.zip(made).for_each(|(stored, scale)| *stored = scale.to_le_bytes());
            }
            (MatrixFormat::Int8x2, [high, low, scales]) => {
                let SourceBlocks::Floats(values) = blocks else { unreachable!("read as floats") };
                let row = self.from.inn as usize;
                let digits = high.chunks_exact_mut(row).zip(low.chunks_exact_mut(row));
                let rows = values.chunks_exact(row / BLOCK_LENGTH).zip(digits);
                for ((values, (high, low)), scale) in rows.zip(scales.as_chunks_mut().0) {
                    let (power, off) = ints::to_digits(values, high, low);
                    *scale = power.to_le_bytes();
                    rounding += off;
                }
            }
            (MatrixFormat::Float(dtype), [stored]) => {
                let size = dtype.size() as usize * BLOCK_LENGTH;
                let stored = of_blocks(stored, at, blocks.len(), size);
                rounding = match blocks {
                    SourceBlocks::Mxfp4(blocks) => mxfp4::encode(dtype, *blocks, stored),
                    SourceBlocks::Floats(values) => tensor::encode(dtype, values, stored),
                };
            }
            _ => unreachable!("refused by Matrix::converted"),
        }
        rounding
    }
}

/// The bytes of some blocks from `at` on, each of this size.
fn of_blocks(part: &mut [u8], at: usize, blocks: usize, size: usize) -> &mut [u8] {
    &mut part[at * size..][..blocks * size]
}
