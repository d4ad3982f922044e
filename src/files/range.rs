//! A byte range of a file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// A byte range of a file. The path is absolute, or relative to a folder that the
/// context names; in an ONNX model it is relative to the model's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// The file.
    pub file: Arc<Path>,
    /// Bytes from the beginning of the file.
    pub range: Range<u64>,
}

impl FileRange {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Serialize for FileRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("FileRange", 3)?;
        fields.serialize_field("file", &*self.file.to_string_lossy())?;
        fields.serialize_field("offset", &self.range.start)?;
        fields.serialize_field("length", &self.len())?;
        fields.end()
    }
}
