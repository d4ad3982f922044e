//! What came in the place of a file: a pointer, a page, an error message, a compressed copy,
//! another format.

/// As many first bytes of a file as [`identify`] looks at.
pub const FIRST_BYTES: usize = 256;
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Most characters of a text that are shown.
const SHOWN: usize = 60;

/// First bytes in lower case, what begins with them, and what to do.
const KNOWN: [(&[u8], &str); 18] = [
    (
        b"version http",
        "a Git LFS pointer, not the file itself: run `git lfs pull` in its clone, or download it again from the hub",
    ),
    (b"\x1f\x8b\x08", "compressed with gzip: unpack it, or download it again"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard: unpack it, or download it again"),
    (b"\xfd7zxz\0", "compressed with xz: unpack it, or download it again"),
    (b"bzh", "compressed with bzip2: unpack it, or download it again"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it, or download it again"),
    (
        b"pk\x03\x04",
        "a ZIP archive, as PyTorch's .bin and .pt files are: load it in transformers and save it as SafeTensors, or unpack it",
    ),
    (
        b"gguf",
        "GGUF, llama.cpp's format, under another name: use the SafeTensors checkpoint that it was made from",
    ),
    (
        b"ggml",
        "GGML, llama.cpp's former format, under another name: use the SafeTensors checkpoint that it was made from",
    ),
    (b"\x89hdf\r\n", "HDF5, Keras's format, under another name: save the model as SafeTensors"),
    (b"\x93numpy", "an array of NumPy under another name: save the model as SafeTensors"),
    (b"\0\0\0\0\0\0\0\0", "zeros, as an unfinished download is: download it again"),
    (b"%pdf", "a PDF document, not the file itself: download it again"),
    (b"<!doctype html", HTML),
    (b"<html", HTML),
    (b"<head", HTML),
    (b"<?xml", XML),
    (b"<error>", XML),
];
const PICKLE: &str = "a pickle, as older versions of PyTorch save, which can run code when it is read: load it in transformers and save it as SafeTensors";
const HTML: &str = "an HTML page, not the file itself: download it again";
const XML: &str = "an XML document, not the file itself: download it again";

/// What a file is by its first bytes if it is neither an object of JSON nor SafeTensors, or
/// a server's message in JSON; and what to do.
pub fn identify(first: &[u8]) -> Option<String> {
    let first = &first[..first.len().min(FIRST_BYTES)];
    if is_utf16(first) {
        return Some("text in UTF-16, expected UTF-8: save it in UTF-8".to_owned());
    }
    let text = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(first).trim_ascii_start();
    let lower = text.to_ascii_lowercase();
    if is_pickle(first) {
        return Some(PICKLE.to_owned());
    }
    if let Some((_, what)) = KNOWN.into_iter().find(|(start, _)| lower.starts_with(start)) {
        return Some(what.to_owned());
    }
    // The last character may be cut off.
    let shown = text.utf8_chunks().next()?.valid();
    let is_text = shown.len() + 3 >= text.len()
        && !shown.contains(|it: char| it.is_control() && !it.is_whitespace());
    let is_message = shown.starts_with(char::is_alphanumeric) || lower.starts_with(b"{\"error\"");
    let line: String = shown.lines().next()?.trim_end().chars().take(SHOWN).collect();
    (is_text && is_message)
        .then(|| format!("a text that begins {line:?}, not the file itself: download it again"))
}

/// Whether these are the version of a pickle and a first opcode: a number, a frame, a dictionary, a
/// list, a tuple or a class. The length of a SafeTensors header is smaller.
fn is_pickle(first: &[u8]) -> bool {
    let opcode = first.get(2);
    first.starts_with(b"\x80")
        && first.get(1).is_some_and(|version| (2..=5).contains(version))
        && opcode.is_some_and(|opcode| b"\x8a\x95}](c".contains(opcode))
}

/// Whether each character takes two bytes, of which one is zero.
fn is_utf16(first: &[u8]) -> bool {
    let marked = [b"\xff\xfe", b"\xfe\xff"].iter().find_map(|mark| first.strip_prefix(*mark));
    let (units, _) = marked.unwrap_or(first).as_chunks::<2>();
    // The length of a SafeTensors header has several zeros in its eight bytes.
    let units = &units[..units.len().min(4)];
    let zero = |half: usize| units.iter().all(|unit| unit[half] == 0 && unit[1 - half] != 0);
    !units.is_empty() && (zero(0) || zero(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn identifies_what_came_instead() {
        let long = "é".repeat(200);
        let table: [(&[u8], &str); 33] = [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
            (b"version https://hawser.github.com/spec/v1\n", "a Git LFS pointer"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\xff", "compressed with gzip"),
            (b"\x28\xb5\x2f\xfd\x04\x58", "compressed with Zstandard"),
            (b"\xfd7zXZ\0\0\x04", "compressed with xz"),
            (b"BZh91AY&SY", "compressed with bzip2"),
            (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive"),
            (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", "a ZIP archive"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle"),
            (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}", "a pickle"),
            (b"GGUF\x03\0\0\0\x3b\0\0\0\0\0\0\0", "GGUF"),
            (b"ggml\x01\0\0\0", "GGML"),
            (b"\x89HDF\r\n\x1a\n\0", "HDF5"),
            (b"\x93NUMPY\x01\0v\0", "an array of NumPy"),
            (&[0; 64], "zeros, as an unfinished download is"),
            (b"%PDF-1.7", "a PDF document"),
            (b"<!DOCTYPE html>\n<html>", "an HTML page"),
            (b"\n  <HTML lang=en>", "an HTML page"),
            (b"\xef\xbb\xbf<html>", "an HTML page"),
            (b"<head><title>302</title>", "an HTML page"),
            (b"<?xml version=\"1.0\"?><Error>", "an XML document"),
            (b"<Error><Code>AccessDenied</Code>", "an XML document"),
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
            assert!(what.starts_with(start), "{what}\ndoes not start: {start}");
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
}
