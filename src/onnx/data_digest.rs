//! Digests of a model's external data, by samples. The model records them, so a data file
//! that was changed or exchanged is noticed without the checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::error::{Result, ensure};
use crate::files::FileRange;
use crate::files::digest::{Digest, sample_ranges};

/// Hexadecimal digits of each half of a digest.
const DIGITS: usize = 12;

/// A digest for each file in which a model reads ranges, by the model's name of the file.
/// `path` says where the file is now. A digest has two halves: of the ranges, and of
/// samples of their bytes.
pub fn data_digests(
    ranges: &[FileRange],
    path: impl Fn(&Path) -> PathBuf,
) -> Result<BTreeMap<String, String>> {
    let digest = |(file, ranges): (String, Vec<FileRange>)| {
        let digest = digest(&path(&ranges[0].file), &ranges)?;
        Ok((file, digest))
    };
    by_file(ranges).into_iter().map(digest).collect()
}

/// What is read of each file, by the model's name of it.
pub(super) fn by_file<'r>(
    ranges: impl IntoIterator<Item = &'r FileRange>,
) -> BTreeMap<String, Vec<FileRange>> {
    let mut files: BTreeMap<String, Vec<FileRange>> = BTreeMap::new();
    for range in ranges {
        let file = range.file.to_string_lossy().into_owned();
        files.entry(file).or_default().push(range.clone());
    }
    files
}

/// Whether the bytes of a file are not those of its recorded digest, as far as samples
/// tell. If other ranges are read than were recorded, because another program has laid the
/// tensors out anew, nobody knows.
pub fn is_changed(recorded: &str, ranges: &[FileRange], path: &Path) -> bool {
    let Ok(now) = digest(path, ranges) else { return false };
    now != recorded && recorded.get(..DIGITS) == Some(&now[..DIGITS])
}

fn digest(path: &Path, ranges: &[FileRange]) -> Result<String> {
    // Opening a FIFO would block, so check first.
    ensure!(fs::metadata(path)?.is_file(), "`{}` is not a regular file", path.display());
    let mut file = fs::File::open(path)?;
    let (mut layout, mut samples) = (Digest::sha256(), Digest::sha256());
    // Offsets and lengths, in order.
    let extents: BTreeSet<_> = ranges.iter().map(|it| (it.range.start, it.len())).collect();
    for (offset, length) in extents {
        layout.update(format!("{offset} {length}\n"));
        for [start, end] in sample_ranges(length) {
            let mut bytes = vec![0; (end - start) as usize];
            file.seek(SeekFrom::Start(offset.saturating_add(start)))?;
            file.read_exact(&mut bytes)?;
            samples.update(bytes);
        }
    }
    Ok([layout, samples].map(|digest| digest.hex()[..DIGITS].to_owned()).join("-"))
}
