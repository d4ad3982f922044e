//! JSON that others wrote: of a bounded size, and with every key once.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("`{}` is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("`{}` has {bytes} bytes, and no such file needs more than {most}: it is another one, or damaged", path.display())]
    TooLarge { path: PathBuf, bytes: u64, most: u64 },
}

/// The bytes of a file that has at most so many.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    // Opening a FIFO would wait for ever, so ask before.
    let status = fs::metadata(path)?;
    if !status.is_file() {
        return Err(Error::NotAFile(path.to_owned()));
    }
    match status.len() {
        bytes if bytes > most => Err(Error::TooLarge { path: path.to_owned(), bytes, most }),
        bytes => {
            // It may grow meanwhile.
            let mut text = Vec::with_capacity(bytes as usize);
            fs::File::open(path)?.take(most).read_to_end(&mut text)?;
            Ok(text)
        }
    }
}

/// Says what is wrong with a text that is no JSON, or has a key twice in an object: which
/// of the two counts, every reader decides for itself.
pub fn refuse_twice(text: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<Once>(text).map(|_| ()).map_err(|error| error.to_string())
}

/// A value in which no key stands twice.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        // Of keys their hashes: there may be a million in a file that was made to do harm.
        let (mut seen, hash) = (HashSet::new(), RandomState::new());
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if !seen.insert(hash.hash_one(&key)) {
                return Err(A::Error::custom(format!("the key {key:?} stands there twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self, A::Error> {
        while sequence.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_once_in_each_object() {
        for text in ["{}", r#"{"a":{"b":[1,-2,3.5,null,true]},"b":{"a":"\u0061"}}"#, "[{},{}]", "7"]
        {
            assert_eq!(refuse_twice(text.as_bytes()), Ok(()), "{text}");
        }
        for text in [r#"{"a":1,"b":2,"a":1}"#, r#"[{"x":{"a":1,"\u0061":2}}]"#] {
            let reason = refuse_twice(text.as_bytes()).unwrap_err();
            assert!(reason.starts_with("the key \"a\" stands there twice"), "{reason}");
        }
        for text in ["", "{", "{\"a\":NaN}", "[1e999]", "\u{feff}{}"] {
            assert!(refuse_twice(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(refuse_twice(deep.as_bytes()).unwrap_err().contains("recursion limit"));
    }
}
