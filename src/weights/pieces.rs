//! A weight's bytes in their order, piece by piece, by its recipe.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

use super::{Recipe, Result, Source, Weight, read_error};
use crate::files::positional::read_exact_at;

/// Bytes that are made at once where they must be rearranged.
const MADE: u64 = 8 << 20;

/// Files that stay open while several weights are read from them.
#[derive(Default)]
pub struct Files {
    open: HashMap<Arc<Path>, fs::File>,
}

impl Files {
    /// The file, opened when it is asked for first.
    pub fn open(&mut self, path: &Arc<Path>) -> std::io::Result<&mut fs::File> {
        if !self.open.contains_key(path) {
            self.open.insert(path.clone(), fs::File::open(&**path)?);
        }
        Ok(self.open.get_mut(path).expect("just opened"))
    }
}

/// Some bytes of a weight.
pub enum Piece<'p> {
    /// They are in a file, which is positioned at them.
    InFile(&'p Source, &'p mut fs::File),
    /// They were rearranged.
    Made(&'p [u8]),
}

impl Piece<'_> {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::InFile(source, _) => source.bytes(),
            Self::Made(bytes) => bytes.len() as u64,
        }
    }
}

/// Hands out all bytes of a weight in order, each piece with its place in the
/// weight, until the answer is no. The weight is not one that is converted.
pub fn each_piece(
    weight: &Weight,
    files: &mut Files,
    mut visit: impl FnMut(u64, Piece) -> Result<bool>,
) -> Result<bool> {
    let whole = weight.bytes();
    if !matches!(weight.recipe, Recipe::Bytes(_) | Recipe::Stacked(_)) {
        for start in (0..whole).step_by(MADE as usize) {
            let made = read_range(weight, files, start..whole.min(start + MADE))?;
            if !visit(start, Piece::Made(&made))? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let mut start = 0;
    for source in weight.recipe.sources() {
        let file = files.open(&source.file)?;
        file.seek(SeekFrom::Start(source.range.start))?;
        if !visit(start, Piece::InFile(source, file))? {
            return Ok(false);
        }
        start += source.bytes();
    }
    Ok(true)
}

/// Some of a weight's bytes. The weight is not one that is converted.
pub fn read_range(weight: &Weight, files: &mut Files, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut start = 0;
    for part in Part::all(&weight.recipe) {
        let end = start + part.bytes();
        let here = range.start.max(start)..range.end.min(end);
        if !here.is_empty() {
            let within = here.start - start..here.end - start;
            part.read(weight, files, within, &mut bytes)?;
        }
        start = end;
    }
    Ok(bytes)
}

/// What lies together in a weight.
enum Part<'r> {
    /// The bytes of one place.
    Whole(&'r Source),
    /// Those of two whose rows, of so many bytes, alternate.
    Rows(&'r [Source; 2], u64),
}

impl<'r> Part<'r> {
    fn all(recipe: &'r Recipe) -> Vec<Self> {
        match recipe {
            Recipe::Interleaved { pairs, row } => {
                pairs.iter().map(|pair| Self::Rows(pair, *row)).collect()
            }
            Recipe::Converted(..) => unreachable!("a conversion hands out its products itself"),
            Recipe::Bytes(_) | Recipe::Stacked(_) => {
                recipe.sources().into_iter().map(Self::Whole).collect()
            }
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Whole(source) => source.bytes(),
            Self::Rows(pair, _) => pair.iter().map(Source::bytes).sum(),
        }
    }

    /// Appends some of its bytes.
    fn read(
        &self,
        weight: &Weight,
        files: &mut Files,
        range: Range<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        match self {
            Self::Whole(source) => read(weight, files, source, range, bytes),
            Self::Rows(pair, row) => {
                let (first, end) = (range.start / (2 * row), range.end.div_ceil(2 * row));
                let [mut even, mut odd] = [Vec::new(), Vec::new()];
                read(weight, files, &pair[0], first * row..end * row, &mut even)?;
                read(weight, files, &pair[1], first * row..end * row, &mut odd)?;
                let rows = even.chunks(*row as usize).zip(odd.chunks(*row as usize));
                let made: Vec<&[u8]> = rows.flat_map(|(even, odd)| [even, odd]).collect();
                let begin = (range.start - first * 2 * row) as usize;
                let length = (range.end - range.start) as usize;
                bytes.extend_from_slice(&made.concat()[begin..][..length]);
                Ok(())
            }
        }
    }
}

/// Appends some bytes of one place.
fn read(
    weight: &Weight,
    files: &mut Files,
    source: &Source,
    range: Range<u64>,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    let file = files.open(&source.file)?.file();
    let before = bytes.len();
    bytes.resize(before + (range.end - range.start) as usize, 0);
    read_exact_at(file, &mut bytes[before..], source.range.start + range.start)
        .map_err(|error| read_error(error, &weight.name, source))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::tensor::DType;

    /// Sources of these bytes, one after the other in a file.
    fn sources(file: &Path, parts: &[Vec<u8>]) -> Vec<Source> {
        fs::write(file, parts.concat()).unwrap();
        let mut start = 0;
        let source = |part: &Vec<u8>| {
            let range = start..start + part.len() as u64;
            start = range.end;
            Source { file: file.into(), range }
        };
        parts.iter().map(source).collect()
    }

    fn check(recipe: Recipe, expected: &[u8], (at, length): (usize, usize)) {
        let name = "w".to_owned();
        let weight = Weight { name, dtype: DType::U8, shape: vec![expected.len() as u64], recipe };
        assert_eq!(weight.bytes(), expected.len() as u64);
        let mut files = Files::default();
        let start = at % expected.len();
        let end = start + length % (expected.len() - start + 1);
        let found = read_range(&weight, &mut files, start as u64..end as u64).unwrap();
        assert_eq!(found, expected[start..end]);
        let mut all = Vec::new();
        let mut collect = |start: u64, piece: Piece| {
            assert_eq!(start, all.len() as u64);
            match piece {
                Piece::Made(bytes) => all.extend_from_slice(bytes),
                Piece::InFile(source, file) => {
                    file.take(source.bytes()).read_to_end(&mut all).map(|_| ())?;
                }
            }
            Ok(true)
        };
        assert!(each_piece(&weight, &mut files, &mut collect).unwrap());
        assert_eq!(all, expected);
    }

    proptest! {
        #[test]
        fn any_range_is_what_the_recipe_says(
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
            check(Recipe::Stacked(places.clone()), &parts.concat(), place);

            let mut expected = Vec::new();
            for pair in parts.chunks(2) {
                for at in 0..rows {
                    expected.extend_from_slice(&pair[0][at * row..][..row]);
                    expected.extend_from_slice(&pair[1][at * row..][..row]);
                }
            }
            let pairs = places.chunks(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect();
            check(Recipe::Interleaved { pairs, row: row as u64 }, &expected, place);
        }
    }
}
