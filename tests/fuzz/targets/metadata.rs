#![no_main]

#[path = "../checks.rs"]
mod checks;

use std::path::Path;
use std::sync::LazyLock;

use gpt_oss_export::checkpoint::{Checkpoint, IgnoredNames};

static TINY: LazyLock<Checkpoint> = LazyLock::new(|| {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny");
    Checkpoint::open(&tiny, &IgnoredNames::default()).unwrap()
});

libfuzzer_sys::fuzz_target!(|text: String| checks::metadata(&TINY, text));
