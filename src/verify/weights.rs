//! A model's weights, byte for byte: what it reads against what the checkpoint's
//! recipes make. That reaches what no text does: tokens and experts that take no
//! part, and bits that are lost in noise.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::formats::is_dtype;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::{FileRange, canonicalize_existing, parent_dir};
use crate::onnx::{OnnxFile, StoredInitializer};
use crate::progress::{Progress, Unit, phase};
use crate::tensor::DType;
use crate::weights::{
    Chunk, Conversion, FileCache, Recipe, Weight, convert, count_non_finite, ensure_finite,
    read_range,
};

/// Bytes that are compared at once.
const COMPARED: u64 = 4 << 20;

/// How a model's weights differ from its checkpoint's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bytes {
    /// Bytes that the model reads from the checkpoint itself, where they should be.
    pub in_place: u64,
    /// Bytes that were compared.
    pub compared: u64,
    /// Weights of the checkpoint whose bytes the model has otherwise.
    pub different: Vec<String>,
    /// Weights of the checkpoint that the model has not, or not whole, under their names.
    pub missing: Vec<String>,
    /// The model's tensors in files that are no weights of the checkpoint.
    pub unknown: Vec<String>,
}

impl Bytes {
    /// Whether the model has the checkpoint's weights, each of them, and no others.
    pub fn agree(&self) -> bool {
        let Self { different, missing, unknown, .. } = self;
        [different, missing, unknown].into_iter().all(Vec::is_empty)
    }
}

/// A comparison under way.
struct Comparison<'w> {
    folder: &'w Path,
    progress: &'w dyn Progress,
    files: FileCache,
    found: Bytes,
}

/// Some bytes of a weight, and where the model has them.
struct Part<'w> {
    name: &'w str,
    weight: &'w Weight,
    /// Which of the weight's bytes.
    range: Range<u64>,
    external: &'w FileRange,
}

/// Looks at the scales of MXFP4 before anything is made of them: they are few, and one that
/// is no number makes a block of none, in a checkpoint and in all that is equal to it.
fn refuse_damaged(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<()> {
    let stored = checkpoint.weights.iter().filter(|weight| !weight.is_converted());
    let scales: Vec<&Weight> =
        stored.filter(|weight| weight.encoded_dtype() == DType::F8E8M0).collect();
    let _phase = phase(
        progress,
        "looking at scales",
        Unit::Bytes,
        scales.iter().map(|weight| weight.bytes()).sum(),
    );
    let mut files = FileCache::default();
    let outcome = scales.into_iter().try_for_each(|weight| {
        count_non_finite(weight, &mut files, progress)
            .and_then(|count| ensure_finite(weight, count))
    });
    outcome
}

/// Compares all tensors that a model has in files with the weights of its checkpoint, in
/// the formats that it has them in.
pub fn compare(
    model: &Path,
    description: &OnnxFile,
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
) -> Result<Bytes> {
    refuse_damaged(checkpoint, progress)?;
    let named: HashMap<&str, &Weight> =
        checkpoint.weights.iter().map(|it| (&*it.name, it)).collect();
    let mut held: HashMap<&str, Vec<Range<u64>>> = HashMap::new();
    let folder = parent_dir(model);
    let (files, found) = (FileCache::default(), Bytes::default());
    let mut comparison = Comparison { folder, progress, files, found };
    let (mut plain, mut converted) = (Vec::new(), Vec::new());
    for (stored, external) in description.external_data() {
        let Some((weight, range)) = part(&named, stored) else {
            comparison.found.unknown.push(stored.name.clone());
            continue;
        };
        held.entry(&weight.name).or_default().push(range.clone());
        let part = Part { name: &stored.name, weight, range, external };
        match part.fits(stored) {
            false => comparison.differs(&part),
            true if matches!(weight.recipe, Recipe::Converted(..)) => converted.push(part),
            true => plain.push(part),
        }
    }
    let bytes = |parts: &[Part]| parts.iter().map(|part| part.bytes()).sum::<u64>();
    let _phase =
        phase(progress, "comparing weights", Unit::Bytes, bytes(&plain) + bytes(&converted));
    plain.iter().try_for_each(|part| comparison.plain(part))?;
    comparison.converted(&converted)?;
    let mut found = comparison.found;
    let is_missing =
        |weight: &&Weight| !held.get_mut(&*weight.name).is_some_and(|ranges| cover(ranges, weight));
    found.missing =
        checkpoint.weights.iter().filter(is_missing).map(|it| it.name.clone()).collect();
    Ok(found)
}

/// Whether these ranges have every byte of a weight.
fn cover(ranges: &mut [Range<u64>], weight: &Weight) -> bool {
    ranges.sort_by_key(|range| range.start);
    let reached = ranges.iter().fold(0, |reached, range| match range.start <= reached {
        true => range.end.max(reached),
        false => reached,
    });
    reached >= weight.bytes()
}

/// The weight that an initializer is, by its name, and which of its bytes: all, or
/// those of some rows.
fn part<'w>(
    weights: &HashMap<&str, &'w Weight>,
    stored: &StoredInitializer,
) -> Option<(&'w Weight, Range<u64>)> {
    if let Some(weight) = weights.get(&*stored.name) {
        return Some((weight, 0..weight.bytes()));
    }
    let (name, first) = stored.name.rsplit_once(".rows_")?;
    let weight = weights.get(name)?;
    let row = weight.bytes() / weight.shape[0].max(1);
    let [start, rows] = [first.parse().ok()?, *stored.shape.first()?];
    let end = row.checked_mul(start.checked_add(rows)?)?;
    Some((weight, row * start..end))
}

impl Part<'_> {
    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether the model has as many bytes, of a type that is read as the weight's.
    fn fits(&self, stored: &StoredInitializer) -> bool {
        self.range.end <= self.weight.bytes()
            && self.external.len() == self.bytes()
            && stored.dtype.and_then(|dtype| dtype.bytes(&stored.shape)) == Some(self.bytes())
            && is_dtype(self.weight.dtype, stored.dtype)
    }
}

impl Comparison<'_> {
    fn differs(&mut self, part: &Part) {
        if !self.found.different.iter().any(|name| name == part.name) {
            self.found.different.push(part.name.to_owned());
        }
    }

    /// The file that a part is in.
    fn file(&self, part: &Part) -> PathBuf {
        self.folder.join(&part.external.file)
    }

    /// What was not converted: nothing is read where the model reads the very place.
    fn plain(&mut self, part: &Part) -> Result<()> {
        let (file, place) = (self.file(part), part.external.range.start);
        if let Recipe::Slice(source) = &part.weight.recipe
            && source.range.start + part.range.start == place
            && canonicalize_existing(&source.file)? == canonicalize_existing(&file)?
        {
            self.found.in_place += part.bytes();
            self.progress.advance(part.bytes());
            return Ok(());
        }
        let file: Arc<Path> = file.into();
        for start in part.range.clone().step_by(COMPARED as usize) {
            if self.progress.is_cancelled() {
                return Err(Error::interrupted());
            }
            let here = start..part.range.end.min(start + COMPARED);
            let expected = read_range(part.weight, &mut self.files, here.clone())?;
            let place = place + (start - part.range.start);
            self.progress.advance(expected.len() as u64);
            if !self.same(&file, place, &expected)? {
                self.differs(part);
                return Ok(());
            }
        }
        Ok(())
    }

    /// What was converted: it is converted again, all products of a conversion
    /// together.
    fn converted(&mut self, parts: &[Part]) -> Result<()> {
        let mut done: Vec<&Arc<Conversion>> = Vec::new();
        for part in parts {
            let Recipe::Converted(conversion, _) = &part.weight.recipe else { continue };
            if done.iter().any(|other| Arc::ptr_eq(other, conversion)) {
                continue;
            }
            done.push(conversion);
            let mut products: Vec<(usize, &Part)> = parts
                .iter()
                .filter_map(|part| match &part.weight.recipe {
                    Recipe::Converted(other, at) if Arc::ptr_eq(other, conversion) => {
                        Some((*at, part))
                    }
                    _ => None,
                })
                .collect();
            products.sort_by_key(|(at, _)| *at);
            self.products(conversion, &products)?;
        }
        Ok(())
    }

    /// All parts of what one conversion makes, each with its place among the products: a
    /// product may be in several parts, some rows in each.
    fn products(&mut self, conversion: &Conversion, parts: &[(usize, &Part)]) -> Result<()> {
        let progress = self.progress;
        let mut products = parts.to_vec();
        products.dedup_by_key(|(at, _)| *at);
        if products.iter().enumerate().any(|(expected, (at, _))| expected != *at) {
            parts.iter().for_each(|(_, part)| self.differs(part));
            return Ok(());
        }
        let places: Vec<_> = products.iter().map(|(_, part)| (part.weight, 0)).collect();
        let comparison = Mutex::new(self);
        let visit = |weight: &Weight, place: u64, chunk: Chunk| {
            let Chunk::Bytes(made) = chunk else { unreachable!("a conversion makes its pieces") };
            let mut comparison = comparison.lock().expect("nobody panics with it");
            for (_, part) in parts.iter().filter(|(_, part)| part.weight.name == weight.name) {
                let end = (place + made.len() as u64).min(part.range.end);
                let start = place.max(part.range.start);
                if start >= end {
                    continue;
                }
                let here = &made[(start - place) as usize..(end - place) as usize];
                let file = comparison.file(part).into();
                let offset = part.external.range.start + (start - part.range.start);
                if !comparison.same(&file, offset, here)? {
                    comparison.differs(part);
                }
            }
            progress.advance(made.len() as u64);
            Ok(())
        };
        convert(conversion, &places, progress, &visit)?;
        Ok(())
    }

    /// Whether these bytes are in a file.
    fn same(&mut self, file: &Arc<Path>, place: u64, expected: &[u8]) -> Result<bool> {
        let mut found = vec![0; expected.len()];
        let file = self.files.open(file)?;
        file.seek(SeekFrom::Start(place))?;
        match file.read_exact(&mut found) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        self.found.compared += found.len() as u64;
        Ok(found == expected)
    }
}
