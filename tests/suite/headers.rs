//! Headers of SafeTensors files.

use std::fs;
use std::path::Path;

use gpt_oss_export::container::{ALIGNMENT, Header, lay_out};
use gpt_oss_export::tensor::DType;
use proptest::prelude::*;

use crate::support::{Home, assert_starts, text};

const DTYPE: [DType; 4] = [DType::U8, DType::BF16, DType::F32, DType::I64];

proptest! {
    #[test]
    fn reads_back_laid_out_headers(
        tensors in prop::collection::btree_map(
            "[a-z.\"\\\\é]{1,12}",
            (0usize..4, prop::collection::vec(0u64..70, 0..4)),
            0..20,
        ),
        metadata in ".*",
    ) {
        let tensors: Vec<_> = tensors.iter().map(|(name, (dtype, shape))| (&**name, DTYPE[*dtype], &shape[..])).collect();
        let (header_bytes, ranges) = lay_out(metadata.clone(), &tensors);
        prop_assert_eq!(header_bytes.len() as u64 % ALIGNMENT, 0);
        let end = ranges.last().map_or(header_bytes.len() as u64, |range| range.end);
        let header = Header::parse(Path::new("x"), &header_bytes[8..], end).unwrap();
        prop_assert_eq!(header.metadata, Some(metadata));
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for ((name, dtype, shape), range) in tensors.iter().zip(ranges) {
            let found = header.tensors.iter().find(|tensor| tensor.name == *name).unwrap();
            prop_assert_eq!((found.dtype, &found.shape[..]), (*dtype, *shape));
            prop_assert_eq!(&found.data.range, &range);
        }
    }
}

/// Files of other formats under a name of SafeTensors, padded as large files are.
#[test]
fn other_formats_are_named() {
    for (first, expected) in [
        (&b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pklFB"[..], "a ZIP archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", "a pickle"),
        (b"\x80\x04\x95\xb7\x02\0\0\0\0\0\0}\x94(\x8c\x06weight", "a pickle"),
        (b"GGUF\x03\0\0\0\x43\x01\0\0\0\0\0\0", "GGUF"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5"),
        (b"\x28\xb5\x2f\xfd\x04\x58\x41\0\0", "compressed"),
        (b"\xfd7zXZ\0\0\x04\xe6\xd6", "compressed"),
        (b"BZh91AY&SY\x1f\x8b", "compressed"),
    ] {
        let home = Home::with("tiny");
        let file = home.join("checkpoint/model.safetensors");
        fs::write(&file, [first, &[0; 5000]].concat()).unwrap();
        let sentence = home.refusal("m", &[]);
        assert_starts(&sentence, &format!("`{}` is {expected}", text(&file)));
        assert!(!sentence.contains("announce"), "{sentence}");
    }
}
