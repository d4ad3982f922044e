//! The weights of a model, byte for byte: what it reads is compared with what the recipes of
//! the checkpoint make. That covers what random tokens do not: unused tokens and experts, and
//! bits that are lost in noise.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use fs_err::File;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::exported::{ExportedModel, ExternalTensor, ModelFile};
use crate::files::canonicalize_existing;
use crate::files::positional::read_exact_at;
use crate::progress::{Progress, Unit, phase};
use crate::tensor::DType;
use crate::weights::{
    ElementKind, FileCache, Provenance, Recipe, Weight, cannot_read, convert, read_range,
    require_finite,
};

/// Bytes compared at once.
const COMPARED: u64 = 4 << 20;
/// Names in a phrase.
const NAMED: usize = 3;

/// How the weights of a model differ from the checkpoint's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WeightDifferences {
    /// Bytes that the model reads from the right place of the checkpoint's own files.
    pub in_place: u64,
    /// Bytes that were compared.
    pub compared: u64,
    /// Initializers whose bytes differ from the checkpoint's.
    pub different: Vec<String>,
    /// Weights of the checkpoint that the model does not have, or not whole.
    pub missing: Vec<String>,
    /// Initializers that hold no weight of the checkpoint.
    pub unknown: Vec<String>,
    /// Weights in the model's own file, whose bytes are not compared.
    pub inline: BTreeSet<String>,
    /// What the model and the checkpoint have in two forms, whose bytes cannot be compared.
    pub other_form: BTreeSet<String>,
    /// Files in which `different` bytes are in the place of the checkpoint's.
    #[serde(skip)]
    pub changed_files: BTreeSet<PathBuf>,
}

impl WeightDifferences {
    /// Whether all bytes are the checkpoint's.
    pub(super) fn is_none(&self) -> bool {
        self.faults().chain(self.not_compared()).next().is_none()
    }

    /// Whether the checkpoint does not have what the model has. Of a model that was saved anew
    /// constants may be in files too.
    pub(super) fn has_faults(&self) -> bool {
        let has_unknown = !self.unknown.is_empty() && self.inline.is_empty();
        !self.different.is_empty() || !self.missing.is_empty() || has_unknown
    }

    /// A phrase for each kind of fault, with the first names.
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        let phrases = [
            named("weights with other bytes", &self.different),
            named("weights missing or incomplete", &self.missing),
            named("tensors that are not in the checkpoint", &self.unknown),
        ];
        phrases.into_iter().flatten()
    }

    /// A phrase for each file of the data of a model that has the weights of a checkpoint with the
    /// same fingerprint, and not its bytes.
    pub(super) fn changes(&self) -> Vec<String> {
        if !self.missing.is_empty() || !self.unknown.is_empty() {
            return Vec::new();
        }
        let faults = named("weights with other bytes", &self.different).unwrap_or_default();
        let phrase = |file: &PathBuf| {
            let file = file.display();
            format!(
                "its data `{file}` was changed or damaged ({faults}): restore it, or export again"
            )
        };
        self.changed_files.iter().map(phrase).collect()
    }

    /// A phrase for each kind that cannot be compared, with the first names.
    pub(super) fn not_compared(&self) -> impl Iterator<Item = String> {
        let phrases = [
            named("weights in another form than the checkpoint's", &self.other_form),
            named("weights stored in the model itself", &self.inline),
        ];
        phrases.into_iter().flatten()
    }

    /// A quantity that is unknown under one name and missing under another has two forms, as those
    /// of some slices that `differ`.
    fn set_other_forms_apart<'s>(&mut self, differ: impl Iterator<Item = &'s Slice<'s>>) {
        let quantities = |names: &[String]| -> BTreeSet<String> {
            names.iter().map(|name| quantity(name)).collect()
        };
        self.other_form = &quantities(&self.unknown) & &quantities(&self.missing);
        self.other_form.extend(differ.map(|slice| quantity(&slice.weight.name)));
        for names in [&mut self.different, &mut self.missing, &mut self.unknown] {
            names.retain(|name| !self.other_form.contains(&quantity(name)));
        }
    }
}

/// A phrase for names of a kind; `None` if there are none.
fn named<'n, N>(kind: &str, names: N) -> Option<String>
where
    N: IntoIterator<Item = &'n String, IntoIter: ExactSizeIterator>,
{
    let names = names.into_iter();
    let more = names.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let first: Vec<_> = names.take(NAMED).map(|name| format!("`{name}`")).collect();
    (!first.is_empty()).then(|| format!("{kind}: {}{more}", first.join(", ")))
}

/// What a weight is in every form: the names of its matrix in other formats, and of queries, keys
/// and values apart, give the same.
fn quantity(name: &str) -> String {
    let (stem, part) = name.rsplit_once('.').unwrap_or((name, ""));
    let stem = match stem.rsplit_once('.') {
        Some((attention, "q" | "k" | "v")) => format!("{attention}.qkv"),
        _ => stem.to_owned(),
    };
    let is_of_matrix = !["bias", "scale", "sinks"].contains(&part);
    format!("{stem}.{}", if is_of_matrix { "weight" } else { part })
}

/// Compares the external data of a model with a checkpoint in the model's formats.
pub fn compare(
    model: &ExportedModel,
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
) -> Result<WeightDifferences> {
    check_scales(checkpoint, progress)?;
    let weights: HashMap<&str, &Weight> =
        checkpoint.weights.iter().map(|weight| (&*weight.name, weight)).collect();
    let (mut found, mut slices) = (WeightDifferences::default(), Vec::new());
    for tensor in model.tensors() {
        match weights.get(tensor.weight) {
            Some(weight) => slices.push(Slice::new(tensor, weight)),
            None => found.unknown.push(tensor.stored.name.clone()),
        }
    }
    // Operators may read the same bytes, each through an initializer of its own.
    let mut seen = HashSet::new();
    let place = |it: &Slice| (it.weight.name.clone(), it.bytes.clone(), it.tensor.data.clone());
    let fitting = slices.iter().filter(|slice| slice.fits);
    let fitting: Vec<&Slice> = fitting.filter(|slice| seen.insert(place(slice))).collect();
    found.in_place = compare_bytes(&fitting, checkpoint, progress)?;
    found.compared = slices.iter().map(|slice| slice.compared.load(Relaxed)).sum();
    let different = || slices.iter().filter(|slice| !slice.fits || slice.differs.load(Relaxed));
    found.different = different().map(|slice| slice.tensor.stored.name.clone()).collect();
    let inline: BTreeSet<&str> = model.files.iter().flat_map(ModelFile::inline_weights).collect();
    for Weight { name, .. } in checkpoint.weights.iter().filter(|it| !is_whole(it, &slices)) {
        if inline.contains(&**name) {
            found.inline.insert(name.clone());
        } else {
            found.missing.push(name.clone());
        }
    }
    let provenance = model.metadata.as_ref().map(|metadata| &metadata.provenances.experts);
    // Several blocks and scales encode the same values, so other bytes of a conversion tell nothing.
    let is_encoded_anew = |slice: &&Slice| {
        slice.weight.is_converted()
            && [ElementKind::Mxfp4Blocks, ElementKind::Mxfp4Scales].contains(&slice.weight.kind)
            && provenance.is_some_and(Provenance::is_unchanged)
    };
    let is_other_form = |slice: &&Slice| slice.is_recast() || is_encoded_anew(slice);
    found.set_other_forms_apart(different().filter(is_other_form));
    let changed =
        different().filter(|it| it.fits && found.different.contains(&it.tensor.stored.name));
    found.changed_files = changed.map(|it| it.tensor.data.file.to_path_buf()).collect();
    Ok(found)
}

/// Compares the bytes of slices. Returns how many of them the model reads in place.
fn compare_bytes(
    slices: &[&Slice],
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
) -> Result<u64> {
    let total = slices.iter().map(|slice| slice.tensor.data.len()).sum();
    let _phase = phase(progress, "comparing weights", Unit::Bytes, total);
    let (mut sources, mut in_place) = (FileCache::default(), 0);
    for slice in slices.iter().filter(|slice| !slice.weight.is_converted()) {
        if slice.is_in_place()? {
            in_place += slice.tensor.data.len();
            progress.advance(slice.tensor.data.len());
        } else {
            slice.compare_stored(&mut sources, progress)?;
        }
    }
    for weight in checkpoint.weights.iter() {
        compare_converted(weight, slices, progress)?;
    }
    Ok(in_place)
}

/// Refuses damaged MXFP4 scales, which in place nothing else reads: they are few, and a scale
/// of NaN makes a whole block NaN.
fn check_scales(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<()> {
    let is_scales =
        |weight: &&Weight| !weight.is_converted() && weight.encoded_dtype() == DType::F8E8M0;
    let scales = || checkpoint.weights.iter().filter(is_scales);
    let total = scales().map(Weight::bytes).sum();
    let _phase = phase(progress, "checking scales", Unit::Bytes, total);
    let mut files = FileCache::default();
    scales().try_for_each(|weight| require_finite(weight, &mut files, progress))
}

/// Some bytes of a weight, and where the model has them.
struct Slice<'w> {
    tensor: ExternalTensor<'w>,
    weight: &'w Weight,
    bytes: Range<u64>,
    /// Whether the initializer has as many bytes, and a dtype that reads them as the weight's.
    fits: bool,
    compared: AtomicU64,
    /// Whether some of them differ, or cannot be read.
    differs: AtomicBool,
}

impl<'w> Slice<'w> {
    fn new(tensor: ExternalTensor<'w>, weight: &'w Weight) -> Self {
        let ExternalTensor { stored, slice, data, .. } = &tensor;
        let bytes = slice.cloned().unwrap_or(0..weight.bytes());
        let length = bytes.end.saturating_sub(bytes.start);
        let fits = (bytes.start..=weight.bytes()).contains(&bytes.end)
            && data.len() == length
            && stored.dtype.and_then(|dtype| dtype.bytes(&stored.shape)) == Some(length)
            && tensor.reads_as(weight.dtype);
        let (compared, differs) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { tensor, weight, bytes, fits, compared, differs }
    }

    /// Whether it holds as many elements in another dtype.
    fn is_recast(&self) -> bool {
        let ExternalTensor { stored, slice, .. } = &self.tensor;
        slice.is_none()
            && stored.shape == self.weight.shape
            && !self.tensor.reads_as(self.weight.dtype)
    }

    /// Whether the model reads the same place as the recipe.
    fn is_in_place(&self) -> Result<bool> {
        let Recipe::Slice(source) = &self.weight.recipe else { return Ok(false) };
        Ok(source.range.start + self.bytes.start == self.tensor.data.range.start
            && canonicalize_existing(&source.file)?
                == canonicalize_existing(&self.tensor.data.file)?)
    }

    /// Compares a weight that is not converted, as far as the first difference.
    fn compare_stored(&self, sources: &mut FileCache, progress: &dyn Progress) -> Result<()> {
        for start in self.bytes.clone().step_by(COMPARED as usize) {
            progress.check_cancelled()?;
            let end = self.bytes.end.min(start + COMPARED);
            let expected = read_range(self.weight, sources, start..end)?;
            self.compare(sources.open(&self.tensor.data.file)?, start, &expected)?;
            progress.advance(end - start);
            if self.differs.load(Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// Compares the bytes of a weight from `offset` on, as far as the slice has them in its file.
    fn compare(&self, file: &File, offset: u64, expected: &[u8]) -> Result<()> {
        let start = offset.max(self.bytes.start);
        let end = self.bytes.end.min(offset + expected.len() as u64);
        if start >= end {
            return Ok(());
        }
        let expected = &expected[(start - offset) as usize..(end - offset) as usize];
        let mut stored = vec![0; expected.len()];
        let place = self.tensor.data.range.start + (start - self.bytes.start);
        let is_same = match read_exact_at(file.file(), &mut stored, place) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(cannot_read(&self.tensor.data.file, error)),
            Ok(()) => {
                self.compared.fetch_add(end - start, Relaxed);
                stored == expected
            }
        };
        self.differs.fetch_or(!is_same, Relaxed);
        Ok(())
    }
}

/// Makes what a weight is the first part of again, and compares all parts.
fn compare_converted(first: &Weight, slices: &[&Slice], progress: &dyn Progress) -> Result<()> {
    let Some((conversion, 0)) = first.conversion() else { return Ok(()) };
    let mut open = Vec::new();
    for slice in slices.iter().filter(|it| it.weight.shares_conversion(first)) {
        let part = slice.weight.conversion().map(|(_, part)| part);
        open.push((part, slice, File::open(&*slice.tensor.data.file)?));
    }
    if open.is_empty() {
        return Ok(());
    }
    convert(conversion, progress, &|part, offset, expected| {
        let mut slices = open.iter().filter(|(of, ..)| *of == Some(part));
        slices.try_for_each(|(_, slice, file)| slice.compare(file, offset, expected))
    })?;
    Ok(())
}

/// Whether slices have every byte of a weight.
fn is_whole(weight: &Weight, slices: &[Slice]) -> bool {
    let own = slices.iter().filter(|slice| slice.weight.name == weight.name);
    let mut ranges: Vec<&Range<u64>> = own.map(|slice| &slice.bytes).collect();
    ranges.sort_by_key(|range| range.start);
    let extend = |end: u64, range: &&Range<u64>| {
        if range.start <= end { range.end.max(end) } else { end }
    };
    !ranges.is_empty() && ranges.iter().fold(0, extend) >= weight.bytes()
}
