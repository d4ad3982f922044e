//! What is in the files that a model reads, by samples: the model says it, so that
//! whoever has the model alone can tell that a file was changed or exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::Description;
use crate::files::digest::{Digest, sample_ranges};

/// The property that says it: a JSON object, by the names that the model has for files.
const KEY: &str = "gpt_oss_export.contents";
/// Digits of each digest.
const DIGITS: usize = 12;

/// The property for a model whose files are at these paths now.
pub fn contents(
    model: &Description,
    path: impl Fn(&str) -> PathBuf,
) -> io::Result<(&'static str, String)> {
    let digest = |(file, places): (&str, _)| Ok((file.to_owned(), digest(&path(file), &places)?));
    let digests: BTreeMap<String, String> =
        places(model).into_iter().map(digest).collect::<io::Result<_>>()?;
    Ok((KEY, serde_json::to_string(&digests).expect("plain text")))
}

/// Whether a file that a model in `folder` reads is not what it was when the model was
/// made, as far as samples tell. Where the model does not say, or its tensors have been
/// laid out anew by another program since, nobody knows.
pub fn is_changed(model: &Description, folder: &Path, file: &str) -> bool {
    let said: Option<BTreeMap<String, String>> =
        model.properties.get(KEY).and_then(|text| serde_json::from_str(text).ok());
    let Some(said) = said.and_then(|mut said| said.remove(file)) else { return false };
    let Some(places) = places(model).remove(file) else { return false };
    let Ok(now) = digest(&folder.join(file), &places) else { return false };
    now != said && now[..DIGITS] == *said.get(..DIGITS).unwrap_or_default()
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
