//! A stored lm_head beside a config that ties it to the embedding.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

use super::layout::Layout;
use super::tensors::Tensors;
use crate::error::{Result, Setting, err};
use crate::files::{FileRange, are_equal};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 20;

/// Takes an lm_head that is equal to the embedding, and refuses another one that is not
/// ignored. A config is read from `file`. Returns the file of the one that was taken.
pub fn accept_copy(
    layout: &Layout,
    tensors: &mut Tensors,
    file: &str,
) -> Result<Option<Arc<Path>>> {
    let [embedding, name] = ["embedding.weight", "lm_head.weight"]
        .map(|canonical| layout.sources(canonical, &[], tensors).first());
    let Some(stored) = tensors.get(&name).filter(|it| !tensors.is_ignored(&it.name)) else {
        return Ok(None);
    };
    // A checkpoint without an embedding is refused anyway.
    let embedding = tensors.get(&embedding).unwrap_or(stored);
    let has_its_form = (stored.dtype, &stored.shape) == (embedding.dtype, &embedding.shape);
    if has_its_form && hold_equal_bytes([&stored.data, &embedding.data])? {
        let copy = stored.data.file.clone();
        tensors.take(&name, &[]);
        return Ok(Some(copy));
    }
    let (path, name) = (stored.data.file.display(), &stored.name);
    let error = err!(
        "`{file}` ties lm_head to the embedding (`tie_word_embeddings`), and `{path}` holds another `{name}`: transformers 4 computes with the embedding, transformers 5 with the stored tensor; to use the stored tensor, set `tie_word_embeddings` to false in `{file}`; to use the embedding, ignore `{name}`"
    );
    Err(error.with_remedy(Setting::IgnoreTensor, name).with_another_remedy())
}

/// Whether two ranges hold the same bytes. Files that are not downloaded yet count as equal: the
/// checkpoint is opened again once they are.
fn hold_equal_bytes(ranges: [&FileRange; 2]) -> Result<bool> {
    if ranges.iter().any(|range| !range.file.exists()) {
        return Ok(true);
    }
    let open = |range: &FileRange| {
        let mut file = fs::File::open::<&Path>(&range.file)?;
        file.seek(SeekFrom::Start(range.range.start))?;
        io::Result::Ok(BufReader::with_capacity(BUFFER, file.take(range.len())))
    };
    let [one, other] = ranges.map(open);
    Ok(are_equal(one?, other?)?)
}
