//! Matrices in another format: rows are read, converted in blocks of 32 elements along
//! `in`, and handed out.

mod blocks;
mod rows;
mod workers;

pub use workers::{Visit, convert};

use super::format::MatrixFormat;
use super::reader::FileCache;
use super::recipe::Conversion;
use crate::error::{Result, Setting, bail, ensure, err};
use crate::tensor::ints::{self, Bits};
use crate::tensor::{self, DType, Rounding, mxfp4};
use blocks::SourceBlocks;
use rows::{BLOCK, RowChunk};

impl Conversion {
    /// Refuses damaged values, overflow, and rounding that was not accepted. Integers round
    /// by their nature.
    fn check(&self, outcome: &Rounding) -> Result<()> {
        let (path, role, format) = (&self.path, self.role, self.to);
        let Rounding { values, changed, not_finite, overflowed, .. } = *outcome;
        ensure!(
            not_finite == 0,
            "`{path}`: {not_finite} of {values} values are infinite or NaN: the checkpoint is damaged, use another copy"
        );
        ensure!(
            overflowed == 0,
            "`{path}`: {overflowed} of {values} values exceed the range of {format} and would become infinite: choose another format for the {role}"
        );
        if changed > 0 && !self.accept_rounding && !matches!(format, MatrixFormat::Int(_)) {
            let error = outcome.relative_error();
            return Err(err!(
                "`{path}` does not fit {format} exactly: {changed} of {values} values would be rounded, with a relative error of {error:.2e}; keep the format of the {role}, or accept rounding"
            )
            .with_remedy(Setting::AcceptRounding, ""));
        }
        Ok(())
    }

    /// Converts a chunk into its bytes in each part; how far they are off.
    fn make(
        &self,
        chunk: &RowChunk,
        files: &mut FileCache,
        parts: &mut [Vec<u8>],
    ) -> Result<Rounding> {
        let mut rounding = Rounding::default();
        match (self.to, parts) {
            (MatrixFormat::Mxfp4, [codes, scales]) => {
                self.each_blocks(chunk, files, |at, blocks| {
                    rounding += into_mxfp4(at, blocks, codes, scales);
                })?;
            }
            (MatrixFormat::Mxfp4ColMajor, [columns, scales]) => {
                columns.fill(0);
                let sides = [self.from.out, self.from.inn].map(|size| size as usize);
                self.each_blocks(chunk, files, |at, blocks| {
                    rounding += into_columns(at, blocks, columns, scales, sides);
                })?;
            }
            (MatrixFormat::Int(bits), [codes, scales]) => {
                let mut computed = Vec::new();
                self.each_blocks(chunk, files, |at, blocks| {
                    computed.resize(blocks.len(), 0.0);
                    let codes = part(codes, at, blocks.len(), bits.block_bytes() as usize);
                    rounding += into_integers(bits, blocks, codes, &mut computed);
                    let stored = scales[4 * at..].as_chunks_mut().0.iter_mut();
                    stored.zip(&computed).for_each(|(stored, it)| *stored = it.to_le_bytes());
                })?;
            }
            (MatrixFormat::Float(dtype), [stored]) => {
                self.each_blocks(chunk, files, |at, blocks| {
                    let size = dtype.size() as usize * BLOCK;
                    let stored = part(stored, at, blocks.len(), size);
                    rounding += into_floats(dtype, blocks, stored);
                })?;
            }
            (format, _) => bail!("matrices cannot be converted to {format} in that order"),
        }
        Ok(rounding)
    }
}

/// The bytes of some blocks from `at` on.
fn part(part: &mut [u8], at: usize, blocks: usize, bytes: usize) -> &mut [u8] {
    &mut part[at * bytes..][..blocks * bytes]
}

fn into_mxfp4(at: usize, blocks: SourceBlocks, codes: &mut [u8], scales: &mut [u8]) -> Rounding {
    let codes = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
    let mut rounding = Rounding::default();
    blocks.each(at, |at, block| {
        let (block, off) = block.in_mxfp4();
        (codes[at], scales[at]) = (block.codes, block.scale);
        rounding += off;
    });
    rounding
}

/// `columns [in, out/2]` of a matrix `[out, in]`: codes of two rows in a byte.
fn into_columns(
    at: usize,
    blocks: SourceBlocks,
    columns: &mut [u8],
    scales: &mut [u8],
    [out, inn]: [usize; 2],
) -> Rounding {
    let mut rounding = Rounding::default();
    blocks.each(at, |at, block| {
        let (block, off) = block.in_mxfp4();
        let (row, first) = (at / (inn / BLOCK), at % (inn / BLOCK) * BLOCK);
        for (column, code) in (first..).zip(block.each_code()) {
            columns[column * (out / 2) + row / 2] |= code << (4 * (row % 2));
        }
        scales[at] = block.scale;
        rounding += off;
    });
    rounding
}

fn into_floats(dtype: DType, blocks: SourceBlocks, stored: &mut [u8]) -> Rounding {
    match blocks {
        SourceBlocks::Mxfp4(blocks) => mxfp4::encode(dtype, blocks, stored),
        SourceBlocks::Floats(numbers) => tensor::encode(dtype, numbers.as_flattened(), stored),
    }
}

fn into_integers(
    bits: Bits,
    blocks: SourceBlocks,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Rounding {
    match blocks {
        SourceBlocks::Mxfp4(blocks) => ints::from_mxfp4(bits, blocks, codes, scales),
        SourceBlocks::Floats(numbers) => {
            let mut rounding = Rounding::default();
            let codes = codes.chunks_mut(bits.block_bytes() as usize);
            for ((numbers, codes), scale) in numbers.iter().zip(codes).zip(scales) {
                let (made, off) = ints::quantize(bits, numbers, codes);
                *scale = made;
                rounding += off;
            }
            rounding
        }
    }
}
