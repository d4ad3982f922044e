//! What is in the files that a model reads, by samples: the model says it, so that
//! whoever has the model alone can tell that a file was changed or exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::Description;
use crate::files::digest::{Digest, sample_ranges};

/// Digits of each digest.
const DIGITS: usize = 12;

/// Digests of the files of a model, which are at these paths now.
pub fn contents(
    model: &Description,
    path: impl Fn(&str) -> PathBuf,
) -> io::Result<BTreeMap<String, String>> {
    let digest = |(file, places): (&str, _)| Ok((file.to_owned(), digest(&path(file), &places)?));
    places(model).into_iter().map(digest).collect()
}

/// Whether a file that a model in `folder` reads differs from the recorded digest, as far
/// as samples tell; unknown if another program has laid out the tensors anew since.
pub fn is_changed(model: &Description, recorded: &str, folder: &Path, file: &str) -> bool {
    let Some(places) = places(model).remove(file) else { return false };
    let Ok(now) = digest(&folder.join(file), &places) else { return false };
    now != recorded && now[..DIGITS] == *recorded.get(..DIGITS).unwrap_or_default()
}

/// Where a tensor begins, and its bytes.
type Place = (u64, u64);

/// What a model reads of each file.
fn places(model: &Description) -> BTreeMap<&str, BTreeSet<Place>> {
    let mut places: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
    for tensor in &model.initializers {
        let Some(external) = &tensor.external else { continue };
        let whole = || tensor.dtype.and_then(|dtype| dtype.bytes(&tensor.shape));
        let length = external.length.or_else(whole).unwrap_or(0);
        places.entry(&external.file).or_default().insert((external.offset, length));
    }
    places
}

/// Of the places, and of samples of what is there.
fn digest(path: &Path, places: &BTreeSet<Place>) -> io::Result<String> {
    // Opening a FIFO would wait for ever, so ask before.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut file = fs::File::open(path)?;
    let (mut laid_out, mut digest) = (Digest::sha256(), Digest::sha256());
    for (offset, length) in places {
        laid_out.update(format!("{offset} {length}\n"));
        for [start, end] in sample_ranges(*length) {
            let mut bytes = vec![0; (end - start) as usize];
            file.seek(SeekFrom::Start(offset.saturating_add(start)))?;
            file.read_exact(&mut bytes)?;
            digest.update(bytes);
        }
    }
    Ok([laid_out, digest].map(|digest| digest.hex()[..DIGITS].to_owned()).join("-"))
}
