//! A stored lm_head beside a config that ties it to the embedding.

use std::path::Path;

use fs_err as fs;

use super::layout::{Layout, Sources};
use super::shards::{Tensors, is_ignored};
use crate::error::{Result, Setting, err};
use crate::files::FileRange;
use crate::files::positional::read_exact_at;
use crate::weights::Weight;

/// Bytes that are compared at a time.
const PART: u64 = 1 << 20;

/// Takes an lm_head that is equal to the embedding, and refuses another one that is not
/// `ignored`. A config is read from `file`.
pub fn accept_copy(
    layout: &Layout,
    embedding: &Weight,
    tensors: &mut Tensors,
    file: &str,
    ignored: &[String],
) -> Result<()> {
    let Sources::Tensor(name) = (layout.sources)("lm_head.weight", embedding.shape[0]) else {
        unreachable!("lm_head is one tensor in every layout");
    };
    let Some(stored) = tensors.get(&name).filter(|it| !is_ignored(&it.name, ignored)) else {
        return Ok(());
    };
    let ranges = [&stored.data, embedding.recipe.sources()[0]];
    let has_its_form = (stored.dtype, &stored.shape) == (embedding.dtype, &embedding.shape);
    if has_its_form && are_equal(ranges)? {
        tensors.take(&name)?;
        return Ok(());
    }
    let error = err!(
        "`{file}` ties lm_head to the embedding (`tie_word_embeddings`), and `{}` holds another `{name}`: transformers 4 computes with the embedding, transformers 5 with the stored tensor; to use the stored tensor, set `tie_word_embeddings` to false in `{file}`; to use the embedding, ignore `{name}`",
        stored.data.file.display()
    );
    Err(error.with_remedy(Setting::IgnoreTensor, name).with_another_remedy())
}

/// Whether two ranges of one length hold the same bytes. Files that are not downloaded yet
/// count as equal: the checkpoint is opened again once they are.
fn are_equal(ranges: [&FileRange; 2]) -> Result<bool> {
    if ranges.iter().any(|range| !range.file.exists()) {
        return Ok(true);
    }
    let open = |range: &FileRange| fs::File::open::<&Path>(&range.file);
    let files = [open(ranges[0])?, open(ranges[1])?];
    for start in (0..ranges[0].len()).step_by(PART as usize) {
        let length = PART.min(ranges[0].len() - start) as usize;
        let mut parts = [vec![0; length], vec![0; length]];
        for ((file, range), part) in files.iter().zip(ranges).zip(&mut parts) {
            read_exact_at(file.file(), part, range.range.start + start)?;
        }
        if parts[0] != parts[1] {
            return Ok(false);
        }
    }
    Ok(true)
}
