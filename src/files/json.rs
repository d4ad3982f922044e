//! JSON files that others wrote: bounded in size, with unique keys in every object.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;
use serde::Serialize;
use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

use crate::display::size;
use crate::error::{Result, bail, ensure, err};
use crate::files::foreign::{self, BYTE_ORDER_MARK};
use crate::files::require_file;

/// The bytes of a file that [`open`] accepts, without a byte order mark.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    open(path, limit)?.read_to_end(&mut text)?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

/// Opens a regular file of at most `limit` bytes.
pub fn open(path: &Path, limit: u64) -> Result<io::Take<fs::File>> {
    let (shown, bytes, most) = (path.display(), require_file(path)?.len(), size(limit));
    ensure!(
        bytes <= limit,
        "`{shown}` has {bytes} bytes, expected at most {most}: it is damaged or another kind of file; download it again"
    );
    // It may grow meanwhile.
    Ok(fs::File::open(path)?.take(limit))
}

/// An object as JSON.
pub fn to_vec(object: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("objects with names as keys are JSON")
}

/// Parses an object of JSON in which every object has unique keys; errors name `file`.
pub fn parse<T: DeserializeOwned>(file: impl fmt::Display, text: &[u8]) -> Result<T> {
    if let Some(what) = foreign::identify(text) {
        bail!("`{file}` is {what}");
    }
    let first = text.trim_ascii_start().first();
    ensure!(first.is_some(), "`{file}` is empty, expected an object of JSON: download it again");
    let invalid =
        |reason| err!("`{file}` is not valid JSON: {reason}; correct it, or download it again");
    reject_duplicate_keys(text).map_err(invalid)?;
    let found = match first {
        Some(b'{') => None,
        Some(b'[') => Some("a list"),
        Some(b'"') => Some("a text"),
        _ => Some("a number"),
    };
    if let Some(found) = found {
        bail!(
            "`{file}` is invalid: it must be an object of JSON, found {found}; download it again"
        );
    }
    // The text is an object; it may not be a `T`.
    serde_json::from_slice(text)
        .map_err(|error| err!("`{file}` is invalid: {error}; correct it, or download it again"))
}

/// Parses the object of JSON in a line of a text that a user wrote; errors name `line`.
pub fn parse_line<T: DeserializeOwned>(line: impl fmt::Display, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        err!("`{line}` is not an object of JSON ({error}): correct the line, or name the file `.txt` if it is plain text")
    })
}

/// Refuses invalid JSON and duplicate keys: readers differ in which of two they take.
pub fn reject_duplicate_keys(text: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<NoDuplicateKeys>(text).map(|_| ()).map_err(|error| {
        let at = format!("at line {} column {}", error.line(), error.column());
        not_a_number(text, &error).map_or_else(
            || error.to_string(),
            |word| format!("found `{word}` {at}, and JSON has neither NaN nor infinity"),
        )
    })
}

/// What Python writes for NaN or infinity, if that is where an error is.
fn not_a_number(text: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    let line = text.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    // A sign has been read already.
    let rest = line.get(error.column().checked_sub(1)?..)?.trim_ascii_start();
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word.as_bytes()))
}

/// A value in which each object has unique keys.
struct NoDuplicateKeys;

impl<'de> Deserialize<'de> for NoDuplicateKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

/// Visitors that accept any value of a type.
macro_rules! scalars {
    ($($visit:ident: $type:ty),+) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self, E> { Ok(self) })+
    };
}

impl<'de> Visitor<'de> for NoDuplicateKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        // Hashes instead of keys: a hostile file may have a million of them.
        let (mut seen, hash) = (HashSet::new(), RandomState::new());
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if !seen.insert(hash.hash_one(&key)) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self, A::Error> {
        while sequence.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    scalars! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// The entries of an object in the file's order.
#[derive(Debug, Default)]
pub struct OrderedObject(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for OrderedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for OrderedObject {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(entry) = map.next_entry()? {
            self.0.push(entry);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_duplicate_keys_and_invalid_json() {
        for text in ["{}", r#"{"a":{"b":[1,-2,3.5,null,true]},"b":{"a":"\u0061"}}"#, "[{},{}]", "7"]
        {
            assert_eq!(reject_duplicate_keys(text.as_bytes()), Ok(()), "{text}");
        }
        for text in [r#"{"a":1,"b":2,"a":1}"#, r#"[{"x":{"a":1,"\u0061":2}}]"#] {
            let reason = reject_duplicate_keys(text.as_bytes()).unwrap_err();
            assert!(reason.starts_with("duplicate key \"a\""), "{reason}");
        }
        for text in ["", "{", "{\"a\":NaN}", "[1e999]", "\u{feff}{}"] {
            assert!(reject_duplicate_keys(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(reject_duplicate_keys(deep.as_bytes()).unwrap_err().contains("recursion limit"));
    }
}
