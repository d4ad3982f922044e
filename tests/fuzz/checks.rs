//! What must hold for any text in a file that this program reads: it is refused, or the result
//! is in order. Never a panic.
#![allow(dead_code)] // each fuzz target has one check

use std::fs;
use std::path::Path;

use gpt_oss_export::checkpoint::{Checkpoint, ConfigFile, INDEX, IgnoredNames, read_index};
use gpt_oss_export::container::{Header, lay_out};

/// A config.json.
pub fn config(text: &[u8]) {
    let read = ConfigFile::read("config.json", text, &IgnoredNames::default(), None);
    let Ok(ConfigFile { config, .. }) = read else { return };
    config.check("config.json").expect("what is read has been checked");
    let [low, high] = config.rope.bounds(config.head_dim);
    assert!(low.is_finite() && high.is_finite());
}

/// The header of a SafeTensors file of this length: its tensors are within the file.
pub fn header(text: &[u8], length: u64) {
    let Ok(header) = Header::parse(Path::new("x.safetensors"), text, length) else { return };
    for tensor in header.tensors {
        let range = &tensor.data.range;
        assert!(range.start <= range.end && range.end <= length);
        assert_eq!(tensor.dtype.bytes(&tensor.shape), Some(tensor.data.len()));
    }
}

/// A checkpoint's index: its shards are names of files in the folder.
pub fn index(text: &[u8]) {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(INDEX), text).unwrap();
    for (_, shard) in read_index(home.path()).ok().flatten().unwrap_or_default() {
        assert_eq!(Path::new(&shard).file_name(), Some(shard.as_ref()));
    }
}

/// The metadata of a weights file with the tensors of `tiny`, whose data is a hole.
pub fn metadata(tiny: &Checkpoint, text: String) {
    let weights =
        tiny.weights.iter().map(|weight| (&*weight.name, weight.dtype, &weight.shape[..]));
    let (header, ranges) = lay_out(text, &weights.collect::<Vec<_>>());
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("w.safetensors");
    fs::write(&path, header).unwrap();
    let end = ranges.last().unwrap().end;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end).unwrap();
    let Ok((checkpoint, metadata)) = Checkpoint::open_staged(&path) else { return };
    checkpoint.config.check("w.safetensors").expect("what is read has been checked");
    let sources = checkpoint.weights.iter().flat_map(|weight| weight.recipe.sources());
    assert!(sources.into_iter().all(|source| source.range.end <= end));
    // Files are named by it.
    let name = metadata.fingerprint.to_string();
    assert!(name.len() == 12 && name.bytes().all(|digit| b"0123456789abcdef".contains(&digit)));
    // Models repeat them.
    assert_eq!(metadata.provenances.experts.format.to_string(), "mxfp4");
    assert_eq!(metadata.provenances.dense.format.to_string(), "bf16");
}
