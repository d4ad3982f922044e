//! Headers of SafeTensors files.

use std::fs;
use std::path::Path;

use gpt_oss_export::container::{ALIGNMENT, Header, lay_out};
use gpt_oss_export::files::foreign::identify;
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

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

#[test]
fn identifies_what_came_instead() {
    let long = "é".repeat(200);
    let table: [(&[u8], &str); 33] = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
        (b"version https://hawser.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\xff", "an archive or a compressed file"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "an archive or a compressed file"),
        (b"\xfd7zXZ\0\0\x04", "an archive or a compressed file"),
        (b"BZh91AY&SY", "an archive or a compressed file"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "an archive or a compressed file"),
        (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", "a ZIP archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch's format, which can run code"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}", "PyTorch's format, which can run code"),
        (b"GGUF\x03\0\0\0\x3b\0\0\0\0\0\0\0", "GGUF"),
        (b"ggml\x01\0\0\0", "GGML"),
        (b"\x89HDF\r\n\x1a\n\0", "TensorFlow's format"),
        (b"\x93NUMPY\x01\0v\0", "an array of NumPy"),
        (&[0; 64], "an unfinished download"),
        (b"%PDF-1.7", "an XML or PDF document"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"\n  <HTML lang=en>", "an HTML page"),
        (b"\xef\xbb\xbf<html>", "an HTML page"),
        (b"<head><title>302</title>", "an HTML page"),
        (b"<?xml version=\"1.0\"?><Error>", "an XML or PDF document"),
        (b"<Error><Code>AccessDenied</Code>", "an XML or PDF document"),
        (b"Entry not found", "a text that begins \"Entry not found\""),
        (b"Access denied\r\nTry later", "a text that begins \"Access denied\""),
        (b"Repository not found\n", "a text that begins \"Repository not found\""),
        (b"404: Not Found", "a text that begins \"404: Not Found\""),
        (b"{\"error\":\"Not Found\"}", r#"a text that begins "{\"error\":\"Not Found\"}""#),
        ("Zugriff verweigert für".as_bytes(), "a text that begins \"Zugriff verweigert für\""),
        (long.as_bytes(), &format!("a text that begins \"{}\", not", "é".repeat(60))),
        (&utf16("{\"a\": 1}", u16::to_le_bytes), "text in UTF-16"),
        (&utf16("{\"a\": 1}", u16::to_be_bytes), "text in UTF-16"),
        (&utf16("\u{feff}{}", u16::to_le_bytes), "text in UTF-16"),
        (&utf16("\u{feff}{}", u16::to_be_bytes), "text in UTF-16"),
    ];
    for (bytes, start) in table {
        let what = identify(bytes).unwrap_or_default();
        assert_starts(&what, start);
    }
}

#[test]
fn identifies_neither_json_nor_headers() {
    let header = |length: u64| [&length.to_le_bytes(), &b"{\"a\":{"[..]].concat();
    let all: [&[u8]; 12] = [
        b"",
        b"{}",
        b" {\"model_type\": ",
        b"[",
        b"\xef\xbb\xbf{",
        b"\x01\x02\x03",
        &[0xff; 64],
        // The low bytes of these lengths are text, gzip's and UTF-16's marks.
        &header(u64::from(u32::from_le_bytes(*b"ab\n\0"))),
        &header(u64::from(u32::from_le_bytes(*b"{\0a\0"))),
        &header(0x8b1f),
        &header(0xfeff),
        &header(0x0280),
    ];
    for bytes in all {
        assert_eq!(identify(bytes), None, "{bytes:?}");
    }
}

/// A file of another format under a name of SafeTensors, padded as large files are.
#[test]
fn other_formats_are_refused() {
    let home = Home::with("tiny");
    let file = home.join("checkpoint/model.safetensors");
    for (first, expected) in [
        (
            &b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pklFB"[..],
            "a ZIP archive, as files of PyTorch are too: unpack it, or load it",
        ),
        (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02",
            "PyTorch's format, which can run code when it is read: load it",
        ),
        (b"GGUF\x03\0\0\0\x43\x01\0\0\0\0\0\0", "GGUF, llama.cpp's format: use the SafeTensors"),
        (&[0; 16], "an unfinished download: download it again"),
    ] {
        fs::write(&file, [first, &[0; 5000]].concat()).unwrap();
        let sentence = home.refusal("m", &[]);
        assert_starts(&sentence, &format!("`{}` is {expected}", text(&file)));
    }
}
