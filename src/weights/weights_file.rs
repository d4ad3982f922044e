//! A weights file of our own: planned, compared with an existing file, written.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::conversion::convert;
use super::external_data::link_kind;
use super::reader::{FileCache, cannot_read, count_in, ensure_finite, for_each_chunk, read_error};
use super::{
    ElementKind, FORMAT_VERSION, Fingerprint, PerRole, Provenance, Recipe, Samples, Weight,
};
use crate::background::with_background;
use crate::container::{self, Header};
use crate::display::listed;
use crate::error::{Error, Kind, Result, bail, err};
use crate::files::FileRange;
use crate::files::positional::{copy_to, read_exact_at, write_all_at};
use crate::progress::{Progress, Unit, phase};
use crate::publish::cannot_write;
use crate::tensor::Rounding;

/// Room in the header for the digits of what conversions round. For each role, the count of
/// rounded values grows from 1 digit to at most 20, and the relative error from 3 characters
/// (`0.0`) to at most 24.
const DIGITS: usize = 80;
/// Bytes copied between two reports of progress.
const COPIED: u64 = 64 << 20;
/// Bytes written or compared at once. A comparison reads as many again, and with a megabyte or
/// more, Linux takes several times longer for a write while earlier ones are flushed.
const PIECE: usize = 1 << 18;

/// The metadata of a weights file, with what is said of its model, a struct `M`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedMetadata<M> {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format: u32,
    /// Fingerprint of the weights that it was made from.
    pub fingerprint: Fingerprint,
    /// Fingerprint of its own bytes.
    pub contents: Fingerprint,
    #[serde(flatten)]
    pub provenances: PerRole<Provenance>,
    #[serde(flatten)]
    pub model: M,
}

/// What there is at the path of a planned weights file.
#[derive(Clone)]
pub enum Present {
    Nothing,
    /// A file that no model can read, which may be replaced.
    Damaged,
    /// The file; what its conversions rounded.
    Same(PerRole<Rounding>),
}

/// A planned weights file: SafeTensors whose data begins on a page, ordered so that large
/// tensors begin on a page too.
pub struct WeightsFile<'w> {
    /// Before its contents and what conversions round are known.
    metadata: StagedMetadata<serde_json::Value>,
    /// In file order.
    weights: Vec<&'w Weight>,
    ranges: Vec<Range<u64>>,
    /// The name, without an end, of a file that an export calls by these weights.
    pub stem: String,
}

impl<'w> WeightsFile<'w> {
    /// Plans a file of these weights. Its name depends on their fingerprint and on the adapters that
    /// it records, if there are any.
    pub fn plan(
        weights: impl IntoIterator<Item = &'w Weight>,
        fingerprint: &Fingerprint,
        adapters: &[impl Serialize],
        model: impl Serialize,
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
            contents: fingerprint.clone(),
            provenances: provenances.clone(),
            model: serde_json::to_value(model).expect("plain data"),
        };
        let name = match adapters {
            [] => fingerprint.clone(),
            _ => fingerprint.with(&serde_json::to_string(adapters).expect("plain data")),
        };
        let stem = format!("weights-{name}");
        let mut file = Self { metadata, weights, ranges: Vec::new(), stem };
        file.ranges = file.layout(fingerprint, &PerRole::default()).1;
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

    /// The header of the file at `path` whose data is written already.
    fn header(
        &self,
        path: &Path,
        files: &mut FileCache,
        rounding: &PerRole<Rounding>,
    ) -> Result<Vec<u8>> {
        let file: Arc<Path> = path.into();
        let stored = self.tensors().map(|(weight, range)| {
            let data = FileRange { file: file.clone(), range: range.clone() };
            Weight { recipe: Recipe::Slice(data), ..weight.clone() }
        });
        let contents = Samples::of_stored(&stored.collect::<Vec<_>>(), files)?.fingerprint;
        Ok(self.layout(&contents, rounding).0)
    }

    /// Weights with their byte ranges in the file.
    pub fn tensors(&self) -> impl Iterator<Item = (&'w Weight, &Range<u64>)> {
        self.weights.iter().copied().zip(&self.ranges)
    }

    pub fn bytes(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Compares an existing file at `path` byte for byte. A different file is an error, unless it
    /// is damaged and has the name of these weights; `readers` are the models that read a file.
    pub fn check_existing(
        &self,
        path: &Path,
        readers: fn(&Path) -> BTreeSet<PathBuf>,
        progress: &dyn Progress,
    ) -> Result<Present> {
        let occupied = || self.occupied(path, readers);
        let Ok(status) = fs::symlink_metadata(path) else { return Ok(Present::Nothing) };
        if let Some(link) = link_kind(path)? {
            bail!("cannot use `{}`: {link}; choose another {}", path.display(), self.place(path));
        }
        if status.is_file() && status.len() < self.bytes() && self.is_named(path) {
            match Header::read(path) {
                // No model of these weights runs with it, and of others none reads it.
                Err(error) if error.kind() != Kind::Io => return Ok(Present::Damaged),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        if !status.is_file() || status.len() != self.bytes() {
            return Err(occupied());
        }
        let _phase = phase(progress, "comparing weights", Unit::Bytes, self.bytes());
        let existing = fs::File::open(path)?;
        let compare = |offset: u64, expected: &[u8]| {
            let mut found = vec![0; expected.len()];
            match read_exact_at(existing.file(), &mut found, offset) {
                Ok(()) if found == expected => Ok(()),
                Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                    Err(cannot_read(path, error))
                }
                // It had the right length a moment ago.
                _ => Err(occupied()),
            }
        };
        let rounding = self.for_each_piece(None, progress, &compare)?;
        // What conversions rounded is known now, and is part of the header.
        let mut files = FileCache::holding(path, existing.file())?;
        compare(0, &self.header(path, &mut files, &rounding)?)?;
        Ok(Present::Same(rounding))
    }

    fn is_named(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(&self.stem))
    }

    /// The error for another file at `path`. Only one that an export wrote may be deleted.
    fn occupied(&self, path: &Path, readers: fn(&Path) -> BTreeSet<PathBuf>) -> Error {
        let (shown, place) = (path.display(), self.place(path));
        if !self.is_named(path) && !Header::is_own(path) {
            return err!("`{shown}` exists, and no export wrote it: choose another {place}");
        }
        let readers = readers(path);
        let advice = match readers.len() {
            0 => format!(
                "no model in its folder or above reads it; delete it and export again, or choose another {place}"
            ),
            count => {
                let (verb, them) =
                    if count == 1 { ("reads", "that model") } else { ("read", "those models") };
                let readers = listed(readers.iter().map(|it| it.display()));
                format!(
                    "{readers} {verb} it; choose another {place}, or delete it and export {them} again"
                )
            }
        };
        err!(
            "`{shown}` exists and differs from the file to write (other weights, another format, or a damaged copy): {advice}"
        )
    }

    /// What to choose in place of a path: the name that follows from the weights is always the same.
    fn place(&self, path: &Path) -> &'static str {
        if self.is_named(path) { "folder" } else { "name" }
    }

    /// Writes the file that will be at `path`; what its conversions rounded.
    pub fn write(
        &self,
        file: &File,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<PerRole<Rounding>> {
        let _phase = phase(progress, "writing weights", Unit::Bytes, self.bytes());
        let write = |offset: u64, bytes: &[u8]| {
            write_all_at(file, bytes, offset).map_err(cannot_write(path))
        };
        let rounding = self.for_each_piece(Some((file, path)), progress, &write)?;
        let mut files = FileCache::holding(path, file).map_err(cannot_write(path))?;
        write(0, &self.header(path, &mut files, &rounding)?)?;
        Ok(rounding)
    }

    /// Visits all bytes in pieces, with their offsets in the file and from several threads:
    /// stored weights wait for the disk and conversions for the processor, so they run side by
    /// side. With a destination, weights that need nothing but a copy are copied there instead.
    fn for_each_piece(
        &self,
        destination: Option<(&File, &Path)>,
        progress: &dyn Progress,
        visit: &(dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    ) -> Result<PerRole<Rounding>> {
        let failed = AtomicBool::new(false);
        let go_on = || {
            let is_over = failed.load(Ordering::Relaxed);
            if is_over { Err(Error::interrupted()) } else { progress.check_cancelled() }
        };
        let visit_pieces = |offset: u64, bytes: &[u8]| {
            let mut pieces = (offset..).step_by(PIECE).zip(bytes.chunks(PIECE));
            pieces.try_for_each(|(offset, piece)| go_on().and_then(|()| visit(offset, piece)))
        };
        let fail = |_: &Error| failed.store(true, Ordering::Relaxed);
        let stored = || {
            let mut files = FileCache::default();
            let unconverted = self.tensors().filter(|(weight, _)| !weight.is_converted());
            for (weight, Range { start, .. }) in unconverted {
                // Any bytes of codes are numbers, so nobody has to look at them.
                let is_codes = matches!(
                    weight.kind,
                    ElementKind::Mxfp4Blocks | ElementKind::IntCodes | ElementKind::Digits
                );
                match (destination, &weight.recipe) {
                    (Some(to), Recipe::Slice(_) | Recipe::Concat(_)) if is_codes => {
                        copy(weight, &mut files, to, *start, progress, &go_on)?;
                    }
                    _ => {
                        let mut non_finite = 0;
                        for_each_chunk(weight, &mut files, progress, |offset, bytes| {
                            non_finite += count_in(weight, bytes);
                            visit_pieces(start + offset, bytes)
                        })?;
                        ensure_finite(weight, non_finite)?;
                    }
                }
            }
            Ok(())
        };
        let converted = || {
            let mut rounding = PerRole::<Rounding>::default();
            for weight in &self.weights {
                // One run makes all parts of a matrix.
                let Some((conversion, 0)) = weight.conversion() else { continue };
                let starts = self.tensors().filter_map(|(other, range)| {
                    let (_, part) = other.conversion()?;
                    other.shares_conversion(weight).then_some((part, range.start))
                });
                let starts: HashMap<usize, u64> = starts.collect();
                let visit_part =
                    |part, offset, bytes: &[u8]| visit_pieces(starts[&part] + offset, bytes);
                let made = convert(conversion, progress, &visit_part)?;
                if let Some(role) = conversion.role {
                    rounding[role] += made;
                }
            }
            Ok(rounding)
        };
        let (converted, stored) =
            with_background(|_| stored().inspect_err(fail), || converted().inspect_err(fail))?;
        match (stored, converted) {
            // The failure, not the interruption that it caused on the other side.
            (Err(error), Err(other)) if error.kind() == Kind::Interrupted => Err(other),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(()), Ok(rounding)) => Ok(rounding),
        }
    }
}

/// Copies the bytes of a weight as they are to an offset of a file.
fn copy(
    weight: &Weight,
    files: &mut FileCache,
    (file, path): (&File, &Path),
    mut offset: u64,
    progress: &dyn Progress,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    for source in weight.recipe.sources() {
        let input = files.open(&source.file)?;
        input.seek(SeekFrom::Start(source.range.start))?;
        for start in (0..source.len()).step_by(COPIED as usize) {
            go_on()?;
            let length = COPIED.min(source.len() - start);
            let copied = copy_to(input.file(), length, file, offset).map_err(|error| {
                let (from, to) = (source.file.display(), path.display());
                err!("cannot copy tensor `{}` from `{from}` to `{to}`", weight.name).with_io(error)
            })?;
            if copied < length {
                let error = ErrorKind::UnexpectedEof.into();
                return Err(read_error(error, &weight.name, source));
            }
            progress.advance(length);
            offset += length;
        }
    }
    Ok(())
}

/// The largest power of two that divides a length, up to a page.
fn alignment(length: u64) -> u64 {
    1 << (length | container::ALIGNMENT).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use crate::weights::{FormatSet, MatrixFormat};

    #[test]
    fn offsets_do_not_depend_on_rounding() {
        let most =
            Rounding { changed: u64::MAX, squares: 1.0, error: 1.1e-290, ..Rounding::default() };
        let most = PerRole { experts: most, dense: most };
        let formats = FormatSet::from_iter([MatrixFormat::Float(DType::F32)]);
        let experts = Provenance::unchanged(formats);
        let provenances = PerRole { dense: experts.clone(), experts };
        let data = FileRange { file: Path::new("w").into(), range: 0..8 };
        let (kind, recipe) = (ElementKind::IntCodes, Recipe::Slice(data));
        let weight =
            Weight { name: "w".to_owned(), dtype: DType::U8, shape: vec![8], kind, recipe };
        // Wherever the header ends.
        for length in 0..container::ALIGNMENT as usize {
            let model = serde_json::json!({"config": "x".repeat(length)});
            let fingerprint = Fingerprint::of("", []).unwrap();
            let file =
                WeightsFile::plan([&weight], &fingerprint, &[] as &[()], model, &provenances);
            let (header, ranges) = file.layout(&fingerprint, &most);
            assert_eq!((header.len() as u64, ranges), (file.ranges[0].start, file.ranges));
        }
    }
}
