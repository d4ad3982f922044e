//! The weights of a model, byte for byte: what it reads is compared with what the recipes of
//! the checkpoint make. That covers what random tokens do not: unused tokens and experts, and
//! bits that are lost in noise.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Mutex;

use serde::Serialize;

use super::model_file::{ExternalTensor, ModelFile};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::{FileRange, canonicalize_existing};
use crate::progress::{Progress, Unit, phase};
use crate::tensor::DType;
use crate::weights::{
    FileCache, Matrix, Recipe, Role, Weight, convert, count_non_finite, ensure_finite, read_range,
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
}

impl WeightDifferences {
    /// A phrase for each kind of fault, with the first names.
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        let kinds = [
            ("weights with other bytes", &self.different),
            ("weights missing or incomplete", &self.missing),
            ("tensors that are not in the checkpoint", &self.unknown),
        ];
        kinds.into_iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| {
            let first: Vec<_> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
            let more = names.len() - first.len();
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("{kind}: {}{more}", first.join(", "))
        })
    }
}

/// Compares the external data of a model with a checkpoint in the model's formats.
pub fn compare(
    model: &ModelFile,
    checkpoint: &Checkpoint,
    progress: &dyn Progress,
) -> Result<WeightDifferences> {
    check_scales(checkpoint, progress)?;
    let weights: HashMap<&str, &Weight> =
        checkpoint.weights.iter().map(|weight| (&*weight.name, weight)).collect();
    let mut found = WeightDifferences::default();
    let mut slices = Vec::new();
    for tensor in model.tensors() {
        match weights.get(tensor.weight) {
            Some(weight) => slices.push(Slice::new(tensor, weight)),
            None => found.unknown.push(tensor.stored.name.clone()),
        }
    }
    let (fitting, others): (Vec<&Slice>, Vec<&Slice>) = slices.iter().partition(|it| it.fits);
    let total = fitting.iter().map(|slice| slice.len()).sum();
    let _phase = phase(progress, "comparing weights", Unit::Bytes, total);
    let mut comparison = ByteComparison {
        progress,
        files: FileCache::default(),
        different: others.iter().map(|slice| slice.name).collect(),
        found,
    };
    for slice in fitting.iter().filter(|slice| !slice.weight.is_converted()) {
        comparison.compare_stored(slice)?;
    }
    for matrix in Role::ALL.into_iter().flat_map(|role| checkpoint.weights.matrices(role)) {
        comparison.compare_converted(matrix, &fitting)?;
    }
    let ByteComparison { mut different, mut found, .. } = comparison;
    let named = slices.iter().filter(|slice| different.remove(slice.name));
    found.different = named.map(|slice| slice.name.to_owned()).collect();
    let missing = checkpoint.weights.iter().filter(|weight| !is_whole(weight, &slices));
    found.missing = missing.map(|weight| weight.name.clone()).collect();
    Ok(found)
}

/// Refuses damaged MXFP4 scales, which in place nothing else reads: they are few, and a scale
/// of NaN makes a whole block NaN.
fn check_scales(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<()> {
    let stored = checkpoint.weights.iter().filter(|weight| !weight.is_converted());
    let scales: Vec<&Weight> =
        stored.filter(|weight| weight.encoded_dtype() == DType::F8E8M0).collect();
    let total = scales.iter().map(|weight| weight.bytes()).sum();
    let _phase = phase(progress, "checking scales", Unit::Bytes, total);
    let mut files = FileCache::default();
    scales.into_iter().try_for_each(|weight| {
        let non_finite = count_non_finite(weight, &mut files, progress)?;
        ensure_finite(weight, non_finite)
    })
}

/// Some bytes of a weight, and where the model has them.
struct Slice<'w> {
    /// Name of the initializer.
    name: &'w str,
    weight: &'w Weight,
    /// Bytes of the weight.
    bytes: Range<u64>,
    data: FileRange,
    /// Whether the initializer has as many bytes, and a dtype that reads them as the weight's.
    fits: bool,
}

impl<'w> Slice<'w> {
    fn new(tensor: ExternalTensor<'w>, weight: &'w Weight) -> Self {
        let ExternalTensor { stored, slice, data, .. } = tensor;
        let bytes = slice.cloned().unwrap_or(0..weight.bytes());
        let length = bytes.end.saturating_sub(bytes.start);
        let fits = (bytes.start..=weight.bytes()).contains(&bytes.end)
            && data.len() == length
            && stored.dtype.and_then(|dtype| dtype.bytes(&stored.shape)) == Some(length)
            && reads_as(weight.dtype, stored.dtype);
        Self { name: &stored.name, weight, bytes, data, fits }
    }

    fn len(&self) -> u64 {
        self.data.len()
    }
}

/// Whether an initializer of a dtype holds a weight of `expected`. Dtypes that operators do not
/// know are bytes to them.
fn reads_as(expected: DType, stored: Option<DType>) -> bool {
    match expected {
        DType::U8 | DType::F8E8M0 | DType::F8E5M2 => stored.is_none_or(|dtype| dtype.size() == 1),
        dtype => stored == Some(dtype),
    }
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

struct ByteComparison<'w> {
    progress: &'w dyn Progress,
    files: FileCache,
    /// Names of initializers.
    different: HashSet<&'w str>,
    found: WeightDifferences,
}

impl<'w> ByteComparison<'w> {
    /// Compares a weight that is not converted. Nothing is read if the model reads the same place.
    fn compare_stored(&mut self, slice: &Slice<'w>) -> Result<()> {
        let Slice { weight, bytes, data, .. } = slice;
        if let Recipe::Slice(source) = &weight.recipe
            && source.range.start + bytes.start == data.range.start
            && canonicalize_existing(&source.file)? == canonicalize_existing(&data.file)?
        {
            self.found.in_place += slice.len();
            self.progress.advance(slice.len());
            return Ok(());
        }
        for start in bytes.clone().step_by(COMPARED as usize) {
            if self.progress.is_cancelled() {
                return Err(Error::interrupted());
            }
            let end = bytes.end.min(start + COMPARED);
            let expected = read_range(weight, &mut self.files, start..end)?;
            self.compare_bytes(slice, start, &expected)?;
            self.progress.advance(end - start);
            if self.different.contains(slice.name) {
                break;
            }
        }
        Ok(())
    }

    /// Converts a matrix again, and compares it.
    fn compare_converted(&mut self, matrix: &Matrix, slices: &[&Slice<'w>]) -> Result<()> {
        let Some((conversion, _)) = matrix.whole().conversion() else { return Ok(()) };
        let parts = matrix.weights();
        let is_part = |slice: &&&Slice| parts.iter().any(|part| part.name == slice.weight.name);
        let slices: Vec<&Slice> = slices.iter().filter(is_part).copied().collect();
        if slices.is_empty() {
            return Ok(());
        }
        let progress = self.progress;
        let comparison = Mutex::new(self);
        let visit = |part: usize, offset: u64, expected: &[u8]| {
            let mut comparison = comparison.lock().expect("no panic holds it");
            for slice in slices.iter().filter(|slice| slice.weight.name == parts[part].name) {
                comparison.compare_bytes(slice, offset, expected)?;
            }
            Ok(())
        };
        convert(conversion, progress, &visit)?;
        Ok(())
    }

    /// Compares the bytes of a weight from `offset` on, as far as a slice has them.
    fn compare_bytes(&mut self, slice: &Slice<'w>, offset: u64, expected: &[u8]) -> Result<()> {
        let start = offset.max(slice.bytes.start);
        let end = slice.bytes.end.min(offset + expected.len() as u64);
        if start >= end {
            return Ok(());
        }
        let expected = &expected[(start - offset) as usize..(end - offset) as usize];
        let mut stored = vec![0; expected.len()];
        let file = self.files.open(&slice.data.file)?;
        file.seek(SeekFrom::Start(slice.data.range.start + (start - slice.bytes.start)))?;
        let is_same = match file.read_exact(&mut stored) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            read => {
                read?;
                self.found.compared += stored.len() as u64;
                stored == expected
            }
        };
        if !is_same {
            self.different.insert(slice.name);
        }
        Ok(())
    }
}
