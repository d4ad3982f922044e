//! Any text as what a staged file says of itself, with the tensors of tiny: an error, or
//! a model whose weights are in the file.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};
use gpt_oss_export::container::lay_out;
use libfuzzer_sys::fuzz_target;

static HOME: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").unwrap());
static TINY: LazyLock<Checkpoint> = LazyLock::new(|| {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny");
    Checkpoint::open(&tiny, &IgnoredNames::default()).unwrap()
});

fuzz_target!(|text: String| {
    let weights = TINY.weights.iter().map(|weight| (&*weight.name, weight.dtype, &weight.shape[..]));
    let (beginning, places) = lay_out(text, &weights.collect::<Vec<_>>());
    let path = HOME.path().join("staged.safetensors");
    std::fs::write(&path, beginning).unwrap();
    let end = places.last().unwrap().end;
    // The weights are a hole.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end).unwrap();
    if let Ok((checkpoint, _)) = Checkpoint::open_staged(&path) {
        let sources = checkpoint.weights.iter().flat_map(|weight| weight.recipe.sources());
        assert!(sources.into_iter().all(|source| source.range.end <= end));
    }
});
