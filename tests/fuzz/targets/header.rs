//! Any text as the header of a SafeTensors file: an error, or tensors within the file.
#![no_main]

use std::path::Path;

use gpt_oss_export::container::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (length, text) = input;
    let path = Path::new("x.safetensors");
    let ours = 8 + text.len() as u64 + (length & 0xffff);
    for length in [length, ours] {
        let Ok(header) = Header::parse(path, text, length) else { continue };
        for entry in header.tensors {
            assert!(entry.range.start <= entry.range.end && entry.range.end <= length);
            assert_eq!(entry.dtype.bytes(&entry.shape), Some(entry.range.end - entry.range.start));
        }
    }
});
