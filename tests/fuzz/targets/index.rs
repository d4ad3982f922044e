//! Any text as a checkpoint's index: an error, or names of files in its folder.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gpt_oss_export::checkpoint::{INDEX, shards};
use libfuzzer_sys::fuzz_target;

static HOME: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").unwrap());

fuzz_target!(|text: &[u8]| {
    std::fs::write(HOME.path().join(INDEX), text).unwrap();
    for shard in shards(HOME.path()).ok().flatten().unwrap_or_default() {
        assert_eq!(Path::new(&shard).file_name(), Some(shard.as_ref()));
    }
});
