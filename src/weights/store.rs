//! A weights file of our own: planned, compared with one that is there, written.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::copying::{WRITTEN, copy};
use super::pieces::{Files, Piece, each_piece};
use super::place::link;
use super::{
    Conversion, Error, FORMAT_VERSION, Fingerprint, Provenances, Recipe, Result, Roundings, Weight,
    convert, read_error, refuse_not_finite,
};
use crate::container;
use crate::files::positional::{read_exact_at, write_all_at};
use crate::progress::{Progress, Unit, phase};
use crate::tensor::{DType, not_finite};

/// Digits by which the numbers of two provenances may grow: 19 of 20, and 21 of 24.
const DIGITS: usize = 80;
/// Bytes compared at once.
const COMPARED: usize = 1 << 20;

/// What a weights file says of itself. What the config `C` is, others know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata<C> {
    /// Version of the format.
    pub format: u32,
    /// Fingerprint of the weights that it was made of.
    pub fingerprint: Fingerprint,
    /// Fingerprint of what is in it.
    pub contents: Fingerprint,
    /// What became of its matrices since the checkpoint.
    #[serde(flatten)]
    pub provenances: Provenances,
    /// The model's config.
    pub config: C,
}

/// A weights file as it will be: a SafeTensors file whose data begins on a
/// page, with its tensors ordered so that large ones begin on a page too.
pub struct Store<'w> {
    /// But for the contents, and what is rounded on the way.
    metadata: Metadata<serde_json::Value>,
    /// Weights in the order of the file.
    ordered: Vec<&'w Weight>,
    ranges: Vec<Range<u64>>,
}

/// What is done with some bytes of a weight, which have this place in the file.
pub type Visit<'v> = dyn Fn(&Weight, u64, Piece) -> Result<bool> + Sync + 'v;

/// Whether a weights file is there already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// It must be written.
    Nothing,
    /// It is there with the very bytes, and so far off what they were made of.
    Equal(Roundings),
}

impl<'w> Store<'w> {
    /// Plans the file for these weights of a model with this config. Of matrices it
    /// says what became of them, but for what is rounded on the way.
    pub fn plan(
        weights: impl IntoIterator<Item = &'w Weight>,
        fingerprint: &Fingerprint,
        config: impl Serialize,
        provenances: &Provenances,
    ) -> Self {
        let mut ordered: Vec<&Weight> = weights.into_iter().collect();
        // The format allows no gaps, so an offset is a sum of lengths. Lengths
        // divisible by the largest powers of two come first: then each tensor
        // is aligned to the power of two in its own length, up to a page.
        ordered.sort_by_key(|weight| std::cmp::Reverse(alignment(weight.bytes())));
        let metadata = Metadata {
            format: FORMAT_VERSION,
            fingerprint: fingerprint.clone(),
            contents: Fingerprint::unknown(),
            provenances: provenances.clone(),
            config: serde_json::to_value(config).expect("plain data"),
        };
        let mut store = Self { metadata, ordered, ranges: Vec::new() };
        store.ranges = store.lay_out(&Fingerprint::unknown(), &Roundings::default()).1;
        store
    }

    /// The beginning of the file, and the place of each weight, when its contents
    /// have this fingerprint and a conversion rounded so much.
    fn lay_out(&self, contents: &Fingerprint, rounding: &Roundings) -> (Vec<u8>, Vec<Range<u64>>) {
        let text = |rounding: &Roundings| {
            let provenances = self.metadata.provenances.after(rounding);
            let contents = contents.clone();
            let metadata = Metadata { contents, provenances, ..self.metadata.clone() };
            serde_json::to_string(&metadata).expect("plain data")
        };
        // No place depends on how many digits numbers have.
        let length = text(&Roundings::default()).len() + DIGITS;
        let tensor = |weight: &&'w Weight| (&*weight.name, weight.dtype, &weight.shape[..]);
        let tensors: Vec<_> = self.ordered.iter().map(tensor).collect();
        container::lay_out(format!("{:length$}", text(rounding)), &tensors)
    }

    /// The beginning of such a file by what is in it, which `read` reads from a
    /// place on.
    fn beginning(
        &self,
        read: impl Fn(u64, &mut [u8]) -> Result<()>,
        rounding: &Roundings,
    ) -> Result<Vec<u8>> {
        let contents = Fingerprint::of_contents(self.ordered.iter().copied(), |weight, range| {
            let (_, place) =
                self.places().find(|(other, _)| other.name == weight.name).expect("its own");
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read(place.start + range.start, &mut bytes)?;
            Ok(bytes)
        });
        Ok(self.lay_out(&contents?, rounding).0)
    }

    /// Where each weight will be.
    pub fn places(&self) -> impl Iterator<Item = (&'w Weight, &Range<u64>)> {
        self.ordered.iter().copied().zip(&self.ranges)
    }

    /// Size of the whole file.
    pub fn bytes(&self) -> u64 {
        let beginning = || self.lay_out(&Fingerprint::unknown(), &Roundings::default()).0;
        self.ranges.last().map_or_else(|| beginning().len() as u64, |range| range.end)
    }

    /// Looks whether `path` is there. Where a file is, all of its bytes are
    /// compared with what they would be; any difference is an error.
    pub fn find(&self, path: &Path, progress: &dyn Progress) -> Result<Found> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(Found::Nothing);
        }
        if let Some(obstacle) = link(path)? {
            return Err(Error::Linked { file: path.to_owned(), obstacle });
        }
        let _phase = phase(progress, "comparing weights", Unit::Bytes, self.bytes());
        let equal = self.equals(path, progress);
        equal?.map(Found::Equal).ok_or_else(|| Error::Occupied(path.to_owned()))
    }

    fn equals(&self, path: &Path, progress: &dyn Progress) -> Result<Option<Roundings>> {
        let status = fs::symlink_metadata(path)?;
        if !status.is_file() || status.len() != self.bytes() {
            return Ok(None);
        }
        let there = fs::File::open(path)?;
        let read = |start, bytes: &mut [u8]| read_back(&there, path, start, bytes);
        let rounding = self.each_piece(progress, &|weight, place, piece| {
            let length = piece.bytes();
            let equal = match piece {
                Piece::InFile(source, input) => same(place..place + length, read, |bytes| {
                    let read = input.read_exact(bytes);
                    read.map_err(|error| read_error(error, &weight.name, source))?;
                    let count = match weight.meaning() {
                        DType::F8E8M0 => not_finite(DType::F8E8M0, bytes),
                        _ => 0,
                    };
                    refuse_not_finite(weight, count)
                }),
                Piece::Made(mut made) => same(place..place + length, read, |bytes| {
                    made.read_exact(bytes).map_err(Error::Io)
                }),
            };
            progress.advance(length);
            equal
        })?;
        // What a conversion rounds is known now, and is part of the beginning.
        let Some(rounding) = rounding else { return Ok(None) };
        let mut beginning = &self.beginning(read, &rounding)?[..];
        let whole = 0..beginning.len() as u64;
        let equal = same(whole, read, |bytes| beginning.read_exact(bytes).map_err(Error::Io))?;
        Ok(equal.then_some(rounding))
    }

    /// Writes the whole file, which will be `path`, and says how far it is off
    /// what it is made of.
    pub fn write(
        &self,
        file: &std::fs::File,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<Roundings> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        let _phase = phase(progress, "writing weights", Unit::Bytes, self.bytes());
        let written = self.each_piece(progress, &|weight, mut place, piece| {
            match piece {
                Piece::InFile(source, input) => {
                    copy(weight, source, input, (file, place), path, progress)?;
                }
                Piece::Made(bytes) => {
                    if weight.meaning() == DType::F8E8M0 {
                        refuse_not_finite(weight, not_finite(DType::F8E8M0, bytes))?;
                    }
                    for part in bytes.chunks(WRITTEN) {
                        write_all_at(file, part, place).map_err(failed)?;
                        place += part.len() as u64;
                        progress.advance(part.len() as u64);
                    }
                }
            }
            Ok(true)
        });
        let rounding = written?.unwrap_or_default();
        let read = |start, bytes: &mut [u8]| read_exact_at(file, bytes, start).map_err(failed);
        write_all_at(file, &self.beginning(read, &rounding)?, 0).map_err(failed)?;
        Ok(rounding)
    }

    /// Hands out all bytes of all weights with their places in the file, several at
    /// once, until the answer is no; nothing then. What is stored is for the disk and
    /// what is converted for the processor: they go on side by side.
    fn each_piece(&self, progress: &dyn Progress, visit: &Visit) -> Result<Option<Roundings>> {
        let stopped = AtomicBool::new(false);
        let visit = |weight: &Weight, place, piece: Piece| {
            if stopped.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let answer = visit(weight, place, piece);
            stopped.fetch_or(!matches!(answer, Ok(true)), Ordering::Relaxed);
            answer
        };
        let (stored, made) = rayon::join(
            || self.each_stored_piece(progress, &visit),
            || self.each_made_piece(progress, &visit),
        );
        match (stored, made) {
            // Of both, the one that failed, not the one that was stopped.
            (Err(error), Ok(_) | Err(Error::Interrupted)) | (_, Err(error)) => Err(error),
            (Ok(true), made) => made,
            _ => Ok(None),
        }
    }

    /// Those of weights that are not converted.
    fn each_stored_piece(&self, progress: &dyn Progress, visit: &Visit) -> Result<bool> {
        let mut files = Files::default();
        for (weight, place) in self.places().filter(|(weight, _)| !weight.is_converted()) {
            let go_on = each_piece(weight, &mut files, |start, piece| {
                let go_on = visit(weight, place.start + start, piece)?;
                if progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(go_on) }
            })?;
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Those of weights that are.
    fn each_made_piece(&self, progress: &dyn Progress, visit: &Visit) -> Result<Option<Roundings>> {
        let mut roundings = Roundings::default();
        let mut made: Vec<&Arc<Conversion>> = Vec::new();
        for (weight, _) in self.places() {
            let Recipe::Converted(conversion, _) = &weight.recipe else { continue };
            // All products come out together.
            if made.iter().any(|other| Arc::ptr_eq(other, conversion)) {
                continue;
            }
            made.push(conversion);
            match convert(conversion, &self.products(conversion), progress, visit)? {
                Some(rounding) => *roundings.of(conversion.role()) += rounding,
                None => return Ok(None),
            }
        }
        Ok(Some(roundings))
    }

    /// What a conversion makes, in its own order, with the places in the file.
    fn products(&self, conversion: &Arc<Conversion>) -> Vec<(&'w Weight, u64)> {
        let products = self.places().filter_map(|(weight, place)| match &weight.recipe {
            Recipe::Converted(other, at) if Arc::ptr_eq(other, conversion) => {
                Some((*at, weight, place.start))
            }
            _ => None,
        });
        let mut products: Vec<_> = products.collect();
        products.sort_by_key(|(at, ..)| *at);
        products.into_iter().map(|(_, weight, start)| (weight, start)).collect()
    }
}

/// The largest power of two that divides a length, up to a page.
fn alignment(length: u64) -> u64 {
    1 << (length | container::ALIGNMENT).trailing_zeros()
}

/// Reads from a weights file that is there, from a place on.
fn read_back(file: &fs::File, path: &Path, start: u64, bytes: &mut [u8]) -> Result<()> {
    read_exact_at(file.file(), bytes, start).map_err(|error| match error.kind() {
        // It was as long as it should be a moment ago.
        io::ErrorKind::UnexpectedEof => Error::Occupied(path.to_owned()),
        _ => error.into(),
    })
}

/// Whether what is there in these places is what should be there, one after the other.
fn same(
    places: Range<u64>,
    there: impl Fn(u64, &mut [u8]) -> Result<()>,
    mut should_be: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<bool> {
    let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
    for start in places.clone().step_by(COMPARED) {
        let part = (places.end - start).min(COMPARED as u64) as usize;
        there(start, &mut left[..part])?;
        should_be(&mut right[..part])?;
        if left[..part] != right[..part] {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Rounding;
    use crate::weights::{Provenance, Source};

    /// However many digits a rounding has, and wherever the beginning ends.
    #[test]
    fn places_do_not_depend_on_what_is_rounded() {
        let most =
            Rounding { changed: u64::MAX, squares: 1.0, error: 1.1e-290, ..Rounding::default() };
        let most = Roundings { experts: most, dense: most };
        let file = Path::new("w").into();
        let recipe = Recipe::Bytes(Source { file, range: 0..8 });
        let weight = Weight {
            name: "w".to_owned(),
            dtype: crate::tensor::DType::U8,
            shape: vec![8],
            recipe,
        };
        let experts = Provenance::unchanged("f32".to_owned());
        let provenances = Provenances { dense: experts.clone(), experts };
        for length in 0..container::ALIGNMENT as usize {
            let config = "x".repeat(length);
            let store = Store::plan([&weight], &Fingerprint::unknown(), config, &provenances);
            let (beginning, places) = store.lay_out(&Fingerprint::unknown(), &most);
            assert_eq!((beginning.len() as u64, places), (store.ranges[0].start, store.ranges));
        }
    }
}
