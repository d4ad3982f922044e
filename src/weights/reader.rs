//! The bytes of a weight in order, by its recipe.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

use super::{Recipe, Weight};
use crate::error::{Error, Result, err};
use crate::files::FileRange;
use crate::files::positional::read_exact_at;

/// Bytes that are rearranged at once.
const CHUNK: u64 = 8 << 20;

/// Files that stay open while several weights are read from them.
#[derive(Default)]
pub struct FileCache {
    open: HashMap<Arc<Path>, fs::File>,
}

impl FileCache {
    /// The file, opened at the first call.
    pub fn open(&mut self, path: &Arc<Path>) -> std::io::Result<&mut fs::File> {
        if !self.open.contains_key(path) {
            self.open.insert(path.clone(), fs::File::open(&**path)?);
        }
        Ok(self.open.get_mut(path).expect("just opened"))
    }
}

/// Consecutive bytes of a weight.
pub enum Chunk<'c> {
    /// A byte range, with its file positioned at the beginning.
    InFile(&'c FileRange, &'c mut fs::File),
    /// Rearranged or converted bytes.
    Bytes(&'c [u8]),
}

impl Chunk<'_> {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::InFile(source, _) => source.len(),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// Visits all bytes of a weight in order, each chunk with its offset in the weight. The
/// weight is not a converted one.
pub fn for_each_chunk(
    weight: &Weight,
    files: &mut FileCache,
    mut visit: impl FnMut(u64, Chunk) -> Result<()>,
) -> Result<()> {
    if let Recipe::InterleaveRows { .. } = weight.recipe {
        for start in (0..weight.bytes()).step_by(CHUNK as usize) {
            let end = weight.bytes().min(start + CHUNK);
            visit(start, Chunk::Bytes(&read_range(weight, files, start..end)?))?;
        }
        return Ok(());
    }
    let mut offset = 0;
    for source in weight.recipe.sources() {
        let file = files.open(&source.file)?;
        file.seek(SeekFrom::Start(source.range.start))?;
        visit(offset, Chunk::InFile(source, file))?;
        offset += source.len();
    }
    Ok(())
}

/// Some bytes of a weight that is not a converted one.
pub fn read_range(weight: &Weight, files: &mut FileCache, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut start = 0;
    for segment in Segment::of(&weight.recipe) {
        let end = start + segment.len();
        let here = range.start.max(start)..range.end.min(end);
        if !here.is_empty() {
            let within = here.start - start..here.end - start;
            segment.read(weight, files, within, &mut bytes)?;
        }
        start = end;
    }
    Ok(bytes)
}

/// A contiguous part of a weight.
enum Segment<'r> {
    Slice(&'r FileRange),
    /// Two ranges whose rows of so many bytes alternate.
    Rows(&'r [FileRange; 2], u64),
}

impl<'r> Segment<'r> {
    fn of(recipe: &'r Recipe) -> Vec<Self> {
        match recipe {
            Recipe::InterleaveRows { pairs, row } => {
                pairs.iter().map(|pair| Self::Rows(pair, *row)).collect()
            }
            Recipe::Converted(..) => unreachable!("a conversion hands out its own products"),
            Recipe::Slice(_) | Recipe::Concat(_) => {
                recipe.sources().into_iter().map(Self::Slice).collect()
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Slice(source) => source.len(),
            Self::Rows(pair, _) => pair.iter().map(FileRange::len).sum(),
        }
    }

    /// Appends some of its bytes.
    fn read(
        &self,
        weight: &Weight,
        files: &mut FileCache,
        range: Range<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let (pair, row) = match self {
            Self::Slice(source) => return read(weight, files, source, range, bytes),
            Self::Rows(pair, row) => (pair, *row),
        };
        let (first, end) = (range.start / (2 * row), range.end.div_ceil(2 * row));
        let [mut even, mut odd] = [Vec::new(), Vec::new()];
        read(weight, files, &pair[0], first * row..end * row, &mut even)?;
        read(weight, files, &pair[1], first * row..end * row, &mut odd)?;
        let rows = even.chunks(row as usize).zip(odd.chunks(row as usize));
        let rows: Vec<&[u8]> = rows.flat_map(|(even, odd)| [even, odd]).collect();
        let begin = (range.start - first * 2 * row) as usize;
        let length = (range.end - range.start) as usize;
        bytes.extend_from_slice(&rows.concat()[begin..][..length]);
        Ok(())
    }
}

/// Appends some bytes of a range.
fn read(
    weight: &Weight,
    files: &mut FileCache,
    source: &FileRange,
    range: Range<u64>,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    let file = files.open(&source.file)?.file();
    let before = bytes.len();
    bytes.resize(before + (range.end - range.start) as usize, 0);
    read_exact_at(file, &mut bytes[before..], source.range.start + range.start)
        .map_err(|error| read_error(error, &weight.name, source))
}

/// The error of reading a tensor; an early end of file means that the file changed.
pub fn read_error(error: std::io::Error, tensor: &str, source: &FileRange) -> Error {
    let file = source.file.display();
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        let range = &source.range;
        return err!(
            "`{file}` ends before the bytes {range:?} of tensor `{tensor}`: the file changed while it was read"
        );
    }
    err!("cannot read `{file}`").with_source(error)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::tensor::DType;
    use crate::weights::ElementKind;

    /// Sources of these bytes, one after the other in a file.
    fn sources(file: &Path, parts: &[Vec<u8>]) -> Vec<FileRange> {
        fs::write(file, parts.concat()).unwrap();
        let mut start = 0;
        let source = |part: &Vec<u8>| {
            let range = start..start + part.len() as u64;
            start = range.end;
            FileRange { file: file.into(), range }
        };
        parts.iter().map(source).collect()
    }

    fn check(recipe: Recipe, expected: &[u8], (at, length): (usize, usize)) {
        let name = "w".to_owned();
        let weight = Weight {
            name,
            dtype: DType::U8,
            shape: vec![expected.len() as u64],
            kind: ElementKind::IntCodes,
            recipe,
        };
        assert_eq!(weight.bytes(), expected.len() as u64);
        let mut files = FileCache::default();
        let start = at % expected.len();
        let end = start + length % (expected.len() - start + 1);
        let found = read_range(&weight, &mut files, start as u64..end as u64).unwrap();
        assert_eq!(found, expected[start..end]);
        let mut all = Vec::new();
        let mut collect = |start: u64, chunk: Chunk| {
            assert_eq!(start, all.len() as u64);
            match chunk {
                Chunk::Bytes(bytes) => all.extend_from_slice(bytes),
                Chunk::InFile(source, file) => {
                    file.take(source.len()).read_to_end(&mut all).map(|_| ())?;
                }
            }
            Ok(())
        };
        for_each_chunk(&weight, &mut files, &mut collect).unwrap();
        assert_eq!(all, expected);
    }

    proptest! {
        #[test]
        fn reads_any_range_of_every_recipe(
            (row, rows) in (1..9usize, 1..7usize),
            experts in 1..4usize,
            seed: u8,
            place: (usize, usize),
        ) {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join("parts");
            let parts: Vec<Vec<u8>> = (0..2 * experts)
                .map(|part| (0..row * rows).map(|at| (part * 50 + at) as u8 ^ seed).collect())
                .collect();
            let places = sources(&file, &parts);
            check(Recipe::Concat(places.clone()), &parts.concat(), place);

            let mut expected = Vec::new();
            for pair in parts.chunks(2) {
                for at in 0..rows {
                    expected.extend_from_slice(&pair[0][at * row..][..row]);
                    expected.extend_from_slice(&pair[1][at * row..][..row]);
                }
            }
            let pairs = places.chunks(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect();
            check(Recipe::InterleaveRows { pairs, row: row as u64 }, &expected, place);
        }
    }
}
