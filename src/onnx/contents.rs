//! What is in the files that a model reads, by samples: the model says it, so that
//! whoever has the model alone can tell that a file was changed or exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::Description;
use crate::digest::{Digest, samples};

/// The property that says it: a JSON object, by the names that the model has for files.
const KEY: &str = "gpt_oss_export.contents";
/// Digits of a digest.
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

/// Of the files that a model in `folder` reads those that are not what they were when it
/// was made, as far as samples tell; none where it does not say.
pub fn changed(model: &Description, folder: &Path) -> BTreeSet<String> {
    let said: Option<BTreeMap<String, String>> =
        model.properties.get(KEY).and_then(|text| serde_json::from_str(text).ok());
    let Some(said) = said else { return BTreeSet::new() };
    let differs = |(file, places): &(&str, BTreeSet<Place>)| {
        digest(&folder.join(file), places).is_ok_and(|now| said.get(*file) != Some(&now))
    };
    places(model).into_iter().filter(differs).map(|(file, _)| file.to_owned()).collect()
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

fn digest(path: &Path, places: &BTreeSet<Place>) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut digest = Digest::sha256();
    for (offset, length) in places {
        digest.update(format!("{offset} {length}\n"));
        for [start, end] in samples(*length) {
            let mut bytes = vec![0; (end - start) as usize];
            file.seek(SeekFrom::Start(offset.saturating_add(start)))?;
            file.read_exact(&mut bytes)?;
            digest.update(bytes);
        }
    }
    Ok(digest.hex()[..DIGITS].to_owned())
}
