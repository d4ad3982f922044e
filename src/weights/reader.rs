//! The bytes of a weight in order, by its recipe.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

use super::{Recipe, Weight};
use crate::container::Header;
use crate::error::{Error, Result, err};
use crate::files::FileRange;
use crate::files::positional::read_exact_at;
use crate::progress::{Progress, Silent};
use crate::tensor::{DType, decode, minus_infinite, not_finite};

/// Bytes read at once, whole elements of every dtype.
const CHUNK: u64 = 1 << 20;

/// Files open at once: codes and scales of a matrix may be in two. A process may have few open
/// files, checkpoints have many shards, and each thread has a cache.
const OPEN: usize = 2;

/// Files that stay open while several weights are read from them.
#[derive(Default)]
pub struct FileCache {
    /// The one that was used last is at the end.
    open: Vec<(Arc<Path>, fs::File)>,
}

impl FileCache {
    /// Has a file that is open already.
    pub(super) fn holding(path: &Path, file: &std::fs::File) -> std::io::Result<Self> {
        let file = fs::File::from_parts(file.try_clone()?, path);
        Ok(Self { open: vec![(path.into(), file)] })
    }

    pub fn open(&mut self, path: &Arc<Path>) -> std::io::Result<&mut fs::File> {
        if let Some(at) = self.open.iter().position(|(open, _)| open == path) {
            self.open[at..].rotate_left(1);
        } else {
            if self.open.len() == OPEN {
                self.open.remove(0);
            }
            self.open.push((path.clone(), fs::File::open(&**path)?));
        }
        Ok(&mut self.open.last_mut().expect("just opened").1)
    }
}

/// Visits all bytes of a weight that is not converted, with their offset in it.
pub fn for_each_chunk(
    weight: &Weight,
    files: &mut FileCache,
    progress: &dyn Progress,
    mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; weight.bytes().min(CHUNK) as usize];
    for start in (0..weight.bytes()).step_by(CHUNK as usize) {
        progress.check_cancelled()?;
        let bytes = &mut buffer[..CHUNK.min(weight.bytes() - start) as usize];
        read_at(weight, files, start, bytes)?;
        visit(start, bytes)?;
        progress.advance(bytes.len() as u64);
    }
    Ok(())
}

/// Some bytes of a weight that is not converted.
pub fn read_range(weight: &Weight, files: &mut FileCache, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    read_at(weight, files, range.start, &mut bytes)?;
    Ok(bytes)
}

/// The values of a weight that is not converted.
pub fn read_values(weight: &Weight, files: &mut FileCache) -> Result<Vec<f32>> {
    Ok(decode(weight.dtype, &read_range(weight, files, 0..weight.bytes())?))
}

fn read_at(
    weight: &Weight,
    files: &mut FileCache,
    mut offset: u64,
    mut bytes: &mut [u8],
) -> Result<()> {
    let mut read = |source: &FileRange, start: u64, bytes: &mut [u8]| {
        let file = files.open(&source.file)?.file();
        read_exact_at(file, bytes, source.range.start + start)
            .map_err(|error| read_error(error, &weight.name, source))
    };
    // One after the other; the rows of a segment's ranges alternate.
    let (segments, row): (Vec<&[FileRange]>, u64) = match &weight.recipe {
        Recipe::Slice(source) => (vec![std::slice::from_ref(source)], 1),
        Recipe::Concat(sources) => (sources.chunks(1).collect(), 1),
        Recipe::InterleaveRows { pairs, row } => (pairs.iter().map(|it| &it[..]).collect(), *row),
        Recipe::Converted(..) => unreachable!("a conversion hands out its own products"),
    };
    for segment in segments {
        let length = segment.iter().map(FileRange::len).sum::<u64>();
        if offset >= length || bytes.is_empty() {
            offset = offset.saturating_sub(length);
            continue;
        }
        let (here, rest) = bytes.split_at_mut(bytes.len().min((length - offset) as usize));
        if let [source] = segment {
            read(source, offset, here)?;
        } else {
            let (first, end) = (offset / (2 * row), (offset + here.len() as u64).div_ceil(2 * row));
            let mut halves = [(); 2].map(|()| vec![0; ((end - first) * row) as usize]);
            for (source, half) in segment.iter().zip(&mut halves) {
                read(source, first * row, half)?;
            }
            let [even, odd] = halves.each_ref().map(|half| half.chunks(row as usize));
            let rows: Vec<&[u8]> = even.zip(odd).flat_map(|(even, odd)| [even, odd]).collect();
            let begin = (offset - first * 2 * row) as usize;
            here.copy_from_slice(&rows.concat()[begin..][..here.len()]);
        }
        (bytes, offset) = (rest, 0);
    }
    Ok(())
}

/// Whether two weights that are not converted have equal values, in whatever dtypes. The bytes of both
/// are reported.
pub fn has_equal_values(
    one: &Weight,
    other: &Weight,
    files: &mut FileCache,
    progress: &dyn Progress,
) -> Result<bool> {
    if one.shape != other.shape {
        return Ok(false);
    }
    let elements: u64 = one.shape.iter().product();
    let mut read = |weight: &Weight, range: &Range<u64>| -> Result<Vec<f32>> {
        let size = weight.dtype.size();
        let bytes = read_range(weight, files, range.start * size..range.end * size)?;
        progress.advance(bytes.len() as u64);
        Ok(decode(weight.dtype, &bytes))
    };
    for start in (0..elements).step_by(CHUNK as usize) {
        progress.check_cancelled()?;
        let range = start..elements.min(start + CHUNK);
        if read(one, &range)? != read(other, &range)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The error of reading a tensor; an early end of file means that the file changed.
pub fn read_error(error: std::io::Error, tensor: &str, source: &FileRange) -> Error {
    if error.kind() != std::io::ErrorKind::UnexpectedEof {
        return cannot_read(&source.file, error);
    }
    let (file, range) = (source.file.display(), &source.range);
    err!(
        "`{file}` ends before the bytes {range:?} of tensor `{tensor}`: the file changed while it was read"
    )
}

pub fn cannot_read(file: &Path, error: std::io::Error) -> Error {
    err!("cannot read `{}`", file.display()).with_io(error)
}

/// Whether all bytes of a weight that is not converted are zero; reads no further than the first that
/// is not.
pub fn is_zero(weight: &Weight, files: &mut FileCache) -> Result<bool> {
    for start in (0..weight.bytes()).step_by(CHUNK as usize) {
        let end = weight.bytes().min(start + CHUNK);
        if read_range(weight, files, start..end)?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What all bytes of a weight tell.
pub struct Examination {
    /// Elements that are infinite or NaN. A sink of -∞ is none: it takes no attention.
    pub non_finite: u64,
    /// The most zero bytes in a row, but for fewer than `ZERO_STEP`; all if all are zero.
    pub zero_run: u64,
}

/// Bytes that are zero together, or count as none.
const ZERO_STEP: usize = 32;

/// Reads a weight that is not converted: a conversion looks at its own.
pub fn examine(
    weight: &Weight,
    files: &mut FileCache,
    progress: &dyn Progress,
) -> Result<Examination> {
    let (mut found, mut run) = (Examination { non_finite: 0, zero_run: 0 }, 0);
    for_each_chunk(weight, files, progress, |_, bytes| {
        found.non_finite += count_in(weight, bytes);
        for step in bytes.chunks(ZERO_STEP) {
            run = if step.iter().all(|byte| *byte == 0) { run + step.len() as u64 } else { 0 };
            found.zero_run = found.zero_run.max(run);
        }
        Ok(())
    })?;
    Ok(found)
}

/// How many elements in some bytes of a weight are infinite or NaN, as [`Examination`] counts.
pub fn count_in(weight: &Weight, bytes: &[u8]) -> u64 {
    let dtype = weight.encoded_dtype();
    let is_allowed = weight.name.ends_with(".sinks");
    not_finite(dtype, bytes) - if is_allowed { minus_infinite(dtype, bytes) } else { 0 }
}

/// Refuses a weight that is not converted if elements are infinite or NaN.
pub fn require_finite(
    weight: &Weight,
    files: &mut FileCache,
    progress: &dyn Progress,
) -> Result<()> {
    ensure_finite(weight, examine(weight, files, progress)?.non_finite)
}

/// Refuses a weight that is not converted and has so many infinite and NaN elements. The error
/// names the first stored tensor that has some.
pub fn ensure_finite(weight: &Weight, non_finite: u64) -> Result<()> {
    if non_finite == 0 {
        return Ok(());
    }
    for source in weight.recipe.sources() {
        let shape = vec![source.len() / weight.dtype.size()];
        let part = Weight { shape, recipe: Recipe::Slice(source.clone()), ..weight.clone() };
        let found = examine(&part, &mut FileCache::default(), &Silent)?.non_finite;
        if found > 0 {
            return Err(damaged(source, weight, found, part.shape[0]));
        }
    }
    // It has changed meanwhile.
    let sources = weight.recipe.sources();
    Err(damaged(sources[0], weight, non_finite, weight.shape.iter().product()))
}

/// The error for a byte range of a weight with values that are not finite.
fn damaged(source: &FileRange, weight: &Weight, non_finite: u64, values: u64) -> Error {
    err!(
        "`{}`, tensor `{}`: {}: {}",
        source.file.display(),
        stored_names([source]).first().unwrap_or(&weight.name),
        not_finite_of(non_finite, values),
        restore(weight.dtype)
    )
}

/// The names of the tensors that files store in some ranges; nothing for a file that changed.
pub fn stored_names<'f>(ranges: impl IntoIterator<Item = &'f FileRange>) -> Vec<String> {
    let mut by_start: HashMap<&Path, BTreeMap<u64, String>> = HashMap::new();
    let mut names = Vec::new();
    for FileRange { file, range } in ranges {
        let read = || {
            let tensors = Header::read(file).map_or(Vec::new(), |it| it.tensors).into_iter();
            tensors.map(|it| (it.data.range.start, it.name)).collect()
        };
        let tensors = by_start.entry(file).or_insert_with(read);
        names.extend(tensors.range(..=range.start).next_back().map(|(_, name)| name.clone()));
    }
    names
}

/// How many of some values are not finite, and that they are.
pub fn not_finite_of(count: u64, values: u64) -> String {
    let are = if count == 1 { "is" } else { "are" };
    format!("{count} of {values} values {are} infinite or NaN")
}

/// What to do about values of a dtype that are not finite.
pub fn restore(dtype: DType) -> String {
    match dtype {
        DType::F16 | DType::F8E5M2 => format!(
            "save the model again in bf16 or f32, as values beyond the range of {dtype} become infinite, or use another copy"
        ),
        _ => "use another copy, or an earlier checkpoint if training has diverged".to_owned(),
    }
}
