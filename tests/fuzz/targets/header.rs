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
        for tensor in header.tensors {
            let range = &tensor.data.range;
            assert!(range.start <= range.end && range.end <= length);
            assert_eq!(tensor.dtype.bytes(&tensor.shape), Some(tensor.data.len()));
        }
    }
});
