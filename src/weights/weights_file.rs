//! A weights file of our own: planned, compared with an existing file, written.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::conversion::{Visit, convert};
use super::copying::{Destination, WRITE_SIZE, copy};
use super::external_data::link_kind;
use super::reader::{Chunk, FileCache, for_each_chunk, read_error};
use super::{
    Conversion, ElementKind, FORMAT_VERSION, Fingerprint, PerRole, Provenance, Weight,
    ensure_finite,
};
use crate::container;
use crate::error::{Error, Kind, Result, bail, err};
use crate::files::positional::{read_exact_at, write_all_at};
use crate::progress::{Progress, Unit, phase};
use crate::tensor::{Rounding, not_finite};

/// Digits by which the numbers of two provenances may grow: 19 of 20, and 21 of 24.
const DIGITS: usize = 80;
/// Bytes compared at once.
const COMPARED: usize = 1 << 20;

/// The metadata of a weights file, with the model's config of type `C`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedMetadata<C> {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format: u32,
    /// Fingerprint of the weights that it was made from.
    pub fingerprint: Fingerprint,
    /// Fingerprint of its own bytes.
    pub contents: Fingerprint,
    #[serde(flatten)]
    pub provenances: PerRole<Provenance>,
    pub config: C,
}

/// A planned weights file: SafeTensors whose data begins on a page, ordered so that large
/// tensors begin on a page too.
pub struct WeightsFile<'w> {
    /// Without the contents and what conversions round.
    metadata: StagedMetadata<serde_json::Value>,
    /// In file order.
    weights: Vec<&'w Weight>,
    ranges: Vec<Range<u64>>,
}

impl<'w> WeightsFile<'w> {
    /// Plans a file for weights of a model.
    pub fn plan(
        weights: impl IntoIterator<Item = &'w Weight>,
        fingerprint: &Fingerprint,
        config: impl Serialize,
        provenances: &PerRole<Provenance>,
    ) -> Self {
        let mut weights: Vec<&Weight> = weights.into_iter().collect();
        // The format allows no gaps, so an offset is a sum of lengths. With the lengths
        // divisible by the largest powers of two first, each tensor is aligned to the
        // power of two in its own length, up to a page.
        weights.sort_by_key(|weight| std::cmp::Reverse(alignment(weight.bytes())));
        let metadata = StagedMetadata {
            format: FORMAT_VERSION,
            fingerprint: fingerprint.clone(),
            contents: Fingerprint::placeholder(),
            provenances: provenances.clone(),
            config: serde_json::to_value(config).expect("plain data"),
        };
        let mut file = Self { metadata, weights, ranges: Vec::new() };
        file.ranges = file.layout(&Fingerprint::placeholder(), &PerRole::default()).1;
        file
    }

    /// Header and tensor ranges for these contents and this rounding.
    fn layout(
        &self,
        contents: &Fingerprint,
        rounding: &PerRole<Rounding>,
    ) -> (Vec<u8>, Vec<Range<u64>>) {
        let text = |rounding: &PerRole<Rounding>| {
            let provenances = self.metadata.provenances.after(rounding);
            let contents = contents.clone();
            let metadata = StagedMetadata { contents, provenances, ..self.metadata.clone() };
            serde_json::to_string(&metadata).expect("plain data")
        };
        // Padded, so that no offset depends on the digits of a number.
        let length = text(&PerRole::default()).len() + DIGITS;
        let tensor = |weight: &&'w Weight| (&*weight.name, weight.dtype, &weight.shape[..]);
        let tensors: Vec<_> = self.weights.iter().map(tensor).collect();
        container::lay_out(format!("{:length$}", text(rounding)), &tensors)
    }

    /// The header of the file whose data `read` reads at an offset.
    fn header_bytes(
        &self,
        read: impl Fn(u64, &mut [u8]) -> Result<()>,
        rounding: &PerRole<Rounding>,
    ) -> Result<Vec<u8>> {
        let contents = Fingerprint::of_contents(self.weights.iter().copied(), |weight, range| {
            let mut tensors = self.tensors();
            let (_, whole) = tensors.find(|(other, _)| other.name == weight.name).expect("its own");
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read(whole.start + range.start, &mut bytes)?;
            Ok(bytes)
        })?;
        Ok(self.layout(&contents, rounding).0)
    }

    /// Weights with their byte ranges in the file.
    pub fn tensors(&self) -> impl Iterator<Item = (&'w Weight, &Range<u64>)> {
        self.weights.iter().copied().zip(&self.ranges)
    }

    /// Size of the whole file.
    pub fn bytes(&self) -> u64 {
        let header = || self.layout(&Fingerprint::placeholder(), &PerRole::default()).0;
        self.ranges.last().map_or_else(|| header().len() as u64, |range| range.end)
    }

    /// Compares an existing file at `path` byte for byte; `None` if there is none, else what
    /// its conversions rounded. A different file is an error.
    pub fn check_existing(
        &self,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<Option<PerRole<Rounding>>> {
        let Ok(status) = fs::symlink_metadata(path) else { return Ok(None) };
        if let Some(link) = link_kind(path)? {
            bail!("cannot use `{}`: {link}; remove it or its other links", path.display());
        }
        if !status.is_file() || status.len() != self.bytes() {
            return Err(occupied(path));
        }
        let _phase = phase(progress, "comparing weights", Unit::Bytes, self.bytes());
        let existing = fs::File::open(path)?;
        let read = |start, bytes: &mut [u8]| {
            read_exact_at(existing.file(), bytes, start).map_err(|error| match error.kind() {
                // It had the right length a moment ago.
                io::ErrorKind::UnexpectedEof => occupied(path),
                _ => error.into(),
            })
        };
        let rounding = self.for_each_chunk(progress, &|weight, offset, chunk| {
            let length = chunk.len();
            let range = offset..offset + length;
            match chunk {
                Chunk::InFile(source, input) => compare(path, range, read, |bytes| {
                    let read = input.read_exact(bytes);
                    read.map_err(|error| read_error(error, &weight.name, source))?;
                    check_scales(weight, bytes)
                }),
                Chunk::Bytes(mut made) => {
                    compare(path, range, read, |bytes| Ok(made.read_exact(bytes)?))
                }
            }?;
            progress.advance(length);
            Ok(())
        })?;
        // What conversions rounded is known now, and is part of the header.
        let header = self.header_bytes(read, &rounding)?;
        let mut rest = &header[..];
        compare(path, 0..header.len() as u64, read, |bytes| Ok(rest.read_exact(bytes)?))?;
        Ok(Some(rounding))
    }

    /// Writes the file that will be at `path`; what its conversions rounded.
    pub fn write(
        &self,
        file: &std::fs::File,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<PerRole<Rounding>> {
        let failed = |error| err!("cannot write `{}`", path.display()).with_source(error);
        let _phase = phase(progress, "writing weights", Unit::Bytes, self.bytes());
        let rounding = self.for_each_chunk(progress, &|weight, mut offset, chunk| {
            match chunk {
                Chunk::InFile(source, input) => {
                    copy(weight, source, input, Destination { file, path, offset }, progress)?;
                }
                Chunk::Bytes(bytes) => {
                    check_scales(weight, bytes)?;
                    for part in bytes.chunks(WRITE_SIZE) {
                        write_all_at(file, part, offset).map_err(failed)?;
                        offset += part.len() as u64;
                        progress.advance(part.len() as u64);
                    }
                }
            }
            Ok(())
        })?;
        let read = |start, bytes: &mut [u8]| read_exact_at(file, bytes, start).map_err(failed);
        write_all_at(file, &self.header_bytes(read, &rounding)?, 0).map_err(failed)?;
        Ok(rounding)
    }

    /// Visits all bytes with their offsets in the file, several chunks at once: copies wait
    /// for the disk and conversions for the processor, so they run side by side.
    fn for_each_chunk(&self, progress: &dyn Progress, visit: &Visit) -> Result<PerRole<Rounding>> {
        let failed = AtomicBool::new(false);
        let visit = |weight: &Weight, offset, chunk: Chunk| {
            if failed.load(Ordering::Relaxed) || progress.is_cancelled() {
                return Err(Error::interrupted());
            }
            let outcome = visit(weight, offset, chunk);
            failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            outcome
        };
        let (copied, converted) = rayon::join(
            || self.for_each_copied_chunk(&visit),
            || self.for_each_converted_chunk(progress, &visit),
        );
        match (copied, converted) {
            // The failure, not the interruption that it caused on the other side.
            (Err(error), Err(other)) if error.kind() == Kind::Interrupted => Err(other),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(()), Ok(rounding)) => Ok(rounding),
        }
    }

    fn for_each_copied_chunk(&self, visit: &Visit) -> Result<()> {
        let mut files = FileCache::default();
        self.tensors().filter(|(weight, _)| !weight.is_converted()).try_for_each(
            |(weight, range)| {
                for_each_chunk(weight, &mut files, |offset, chunk| {
                    visit(weight, range.start + offset, chunk)
                })
            },
        )
    }

    fn for_each_converted_chunk(
        &self,
        progress: &dyn Progress,
        visit: &Visit,
    ) -> Result<PerRole<Rounding>> {
        let mut rounding = PerRole::<Rounding>::default();
        let mut done: Vec<&Arc<Conversion>> = Vec::new();
        for (conversion, _) in self.weights.iter().filter_map(|weight| weight.conversion()) {
            // One run makes all parts.
            if done.iter().any(|other| Arc::ptr_eq(other, conversion)) {
                continue;
            }
            done.push(conversion);
            let products = self.products(conversion);
            rounding[conversion.role()] += convert(conversion, &products, progress, visit)?;
        }
        Ok(rounding)
    }

    /// The parts that a conversion makes, in their order, with their offsets in the file.
    fn products(&self, conversion: &Arc<Conversion>) -> Vec<(&'w Weight, u64)> {
        let products = self.tensors().filter_map(|(weight, range)| {
            let (other, part) = weight.conversion()?;
            Arc::ptr_eq(other, conversion).then_some((part, weight, range.start))
        });
        let mut products: Vec<_> = products.collect();
        products.sort_by_key(|(part, ..)| *part);
        products.into_iter().map(|(_, weight, start)| (weight, start)).collect()
    }
}

/// The largest power of two that divides a length, up to a page.
fn alignment(length: u64) -> u64 {
    1 << (length | container::ALIGNMENT).trailing_zeros()
}

fn check_scales(weight: &Weight, bytes: &[u8]) -> Result<()> {
    if weight.kind != ElementKind::Mxfp4Scales {
        return Ok(());
    }
    ensure_finite(weight, not_finite(weight.encoded_dtype(), bytes))
}

fn occupied(path: &Path) -> Error {
    err!(
        "`{}` exists and differs from the file to write (other weights, another format, or a damaged copy), and a model may be reading it: write into another folder, or move it away",
        path.display()
    )
}

/// Compares a range of an existing file with what `expected` reads, one chunk after the
/// other.
fn compare(
    path: &Path,
    range: Range<u64>,
    existing: impl Fn(u64, &mut [u8]) -> Result<()>,
    mut expected: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
    for start in range.clone().step_by(COMPARED) {
        let length = (range.end - start).min(COMPARED as u64) as usize;
        existing(start, &mut left[..length])?;
        expected(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Err(occupied(path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FileRange;
    use crate::tensor::DType;
    use crate::weights::{FormatSet, MatrixFormat, Recipe};

    #[test]
    fn offsets_do_not_depend_on_rounding() {
        let most =
            Rounding { changed: u64::MAX, squares: 1.0, error: 1.1e-290, ..Rounding::default() };
        let most = PerRole { experts: most, dense: most };
        let weight = Weight {
            name: "w".to_owned(),
            dtype: DType::U8,
            shape: vec![8],
            kind: ElementKind::IntCodes,
            recipe: Recipe::Slice(FileRange { file: Path::new("w").into(), range: 0..8 }),
        };
        let formats = FormatSet::from_iter([MatrixFormat::Float(DType::F32)]);
        let experts = Provenance::unchanged(formats);
        let provenances = PerRole { dense: experts.clone(), experts };
        // Wherever the header ends.
        for length in 0..container::ALIGNMENT as usize {
            let (config, fingerprint) = ("x".repeat(length), Fingerprint::placeholder());
            let file = WeightsFile::plan([&weight], &fingerprint, config, &provenances);
            let (header, ranges) = file.layout(&fingerprint, &most);
            assert_eq!((header.len() as u64, ranges), (file.ranges[0].start, file.ranges));
        }
    }
}
