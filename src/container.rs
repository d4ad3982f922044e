//! SafeTensors, the one container for weights: what a file's header says, and
//! the header of a file that we write. Tensor bytes are never touched here.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use fs_err as fs;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::files::json;
use crate::tensor::DType;

/// How a pointer of Git LFS begins.
const POINTER: &[u8; 8] = b"version ";
/// Longest header that is read: that of a 120B with a tensor for each expert has 6 MB.
const LONGEST_HEADER: u64 = 8 << 20;
/// The data of a file that we write begins at a multiple of this (a page).
pub const ALIGNMENT: u64 = 4096;
/// The one key of the header's metadata that we write and read.
const METADATA_KEY: &str = "gpt_oss_export";

/// What the header of a SafeTensors file says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Every tensor, in the order of its bytes.
    pub tensors: Vec<Entry>,
    /// Our own metadata, when we wrote the file.
    pub metadata: Option<String>,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tensor's name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// One number for each axis.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the beginning of the file.
    pub range: Range<u64>,
}

/// Why a file is not SafeTensors that we can use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("there is no file `{}`", .0.display())]
    Missing(PathBuf),
    #[error("`{}` has {bytes} bytes, too few for a SafeTensors file", path.display())]
    TooShort { path: PathBuf, bytes: u64 },
    #[error("`{}` is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("`{}` is a pointer of Git LFS and not the file that it stands for: fetch that with `git lfs pull`", .0.display())]
    Pointer(PathBuf),
    #[error(
        "`{}` is not a whole SafeTensors file: a header of {header} bytes was announced, the file has {file} bytes",
        path.display()
    )]
    Truncated { path: PathBuf, header: u64, file: u64 },
    #[error("`{}` announces a header of {header} bytes, and no checkpoint needs more than {LONGEST_HEADER}: it is another file, or damaged", path.display())]
    LongHeader { path: PathBuf, header: u64 },
    #[error("`{}` has an invalid SafeTensors header: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error(
        "`{}` is not a whole SafeTensors file: its header describes {expected} bytes, the file has {found}; download it again",
        path.display()
    )]
    Length { path: PathBuf, expected: u64, found: u64 },
    #[error("`{}`: tensor `{name}` has dtype {dtype}, which no checkpoint that can be read here uses; use the one that it was made from, in MXFP4, BF16, F16, F32 or F8_E5M2", path.display())]
    Dtype { path: PathBuf, name: String, dtype: String },
}

impl Header {
    /// Reads and validates the header of a file: offsets without holes or
    /// overlaps, sizes that follow from dtypes and shapes, the file's length.
    pub fn read(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Err(Error::Missing(path.to_owned()));
        }
        // Opening a FIFO would wait for ever, so ask before.
        if !fs::metadata(path)?.is_file() {
            return Err(Error::NotAFile(path.to_owned()));
        }
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut prefix = [0; 8];
        if length < 8 {
            return Err(Error::TooShort { path: path.to_owned(), bytes: length });
        }
        file.read_exact(&mut prefix)?;
        let mut json = vec![0; Self::announced(path, prefix, length)? as usize];
        file.read_exact(&mut json)?;
        Self::parse(path, &json, length)
    }

    /// How many bytes the header has that begins behind these, the first of a
    /// file of `length` bytes.
    pub fn announced(path: &Path, prefix: [u8; 8], length: u64) -> Result<u64, Error> {
        if prefix == *POINTER {
            return Err(Error::Pointer(path.to_owned()));
        }
        let header = u64::from_le_bytes(prefix);
        if header > length.saturating_sub(8) {
            return Err(Error::Truncated { path: path.to_owned(), header, file: length });
        }
        if header > LONGEST_HEADER {
            return Err(Error::LongHeader { path: path.to_owned(), header });
        }
        Ok(header)
    }

    /// The header in `text`, of a file of `length` bytes.
    pub fn parse(path: &Path, text: &[u8], length: u64) -> Result<Self, Error> {
        // serde names its own types where it finds another kind of value.
        let plain = |error: serde_json::Error| {
            error.to_string().replace("struct HashMetadata", "an object")
        };
        let invalid = |reason| Error::Invalid { path: path.to_owned(), reason };
        // First what stops at the first thing that is no tensor.
        let metadata: Metadata =
            serde_json::from_slice(text).map_err(|error| invalid(plain(error)))?;
        json::reject_duplicate_keys(text).map_err(invalid)?;
        let start = 8 + text.len() as u64;
        let expected = start.saturating_add(metadata.data_len() as u64);
        if expected != length {
            return Err(Error::Length { path: path.to_owned(), expected, found: length });
        }
        let entry = |name: String| {
            let info = metadata.info(&name).expect("listed");
            let dtype = from_safetensors(info.dtype).ok_or_else(|| Error::Dtype {
                path: path.to_owned(),
                name: name.clone(),
                dtype: info.dtype.to_string(),
            })?;
            let (first, end) = info.data_offsets;
            let range = start + first as u64..start + end as u64;
            let shape = info.shape.iter().map(|dim| *dim as u64).collect();
            Ok::<_, Error>(Entry { name, dtype, shape, range })
        };
        let tensors =
            metadata.offset_keys().into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let metadata = metadata.metadata().as_ref().and_then(|map| map.get(METADATA_KEY).cloned());
        Ok(Self { tensors, metadata })
    }
}

/// Lays tensors out in a new file: the bytes of its beginning (length, header
/// and padding) and the place of each tensor, in the given order.
pub fn lay_out(metadata: String, tensors: &[(&str, DType, &[u64])]) -> (Vec<u8>, Vec<Range<u64>>) {
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, dtype, shape) in tensors {
        let start = end;
        end += dtype.bytes(shape).expect("the size of a tensor that exists") as usize;
        let shape = shape.iter().map(|dim| *dim as usize).collect();
        let info = TensorInfo { dtype: to_safetensors(*dtype), shape, data_offsets: (start, end) };
        infos.push(((*name).to_owned(), info));
    }
    let places: Vec<_> = infos.iter().map(|(_, info)| info.data_offsets).collect();
    let metadata = [(METADATA_KEY.to_owned(), metadata)].into();
    let header = Metadata::new(Some(metadata), infos).expect("laid out without holes");
    let mut json = serde_json::to_vec(&header).expect("a header is plain JSON");
    // The format allows spaces after the header.
    let start = (8 + json.len() as u64).next_multiple_of(ALIGNMENT);
    json.resize(start as usize - 8, b' ');
    let beginning = [&(json.len() as u64).to_le_bytes(), &json[..]].concat();
    let ranges = places.into_iter().map(|(first, end)| start + first as u64..start + end as u64);
    (beginning, ranges.collect())
}

/// Pairs of the format's dtypes and ours; all others are refused.
const DTYPES: [(Dtype, DType); 10] = [
    (Dtype::BOOL, DType::Bool),
    (Dtype::U8, DType::U8),
    (Dtype::I8, DType::I8),
    (Dtype::I32, DType::I32),
    (Dtype::I64, DType::I64),
    (Dtype::F8_E5M2, DType::F8E5M2),
    (Dtype::F8_E8M0, DType::F8E8M0),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::F32, DType::F32),
];

fn from_safetensors(dtype: Dtype) -> Option<DType> {
    DTYPES.iter().find(|(theirs, _)| *theirs == dtype).map(|(_, ours)| *ours)
}

fn to_safetensors(dtype: DType) -> Dtype {
    DTYPES.iter().find(|(_, ours)| *ours == dtype).expect("every dtype is listed").0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DTYPE: [DType; 4] = [DType::U8, DType::BF16, DType::F32, DType::I64];

    fn parse(json: &[u8], length: u64) -> Result<Header, Error> {
        Header::parse(Path::new("x.safetensors"), json, length)
    }

    #[test]
    fn a_pointer_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        std::fs::write(file.path(), text).unwrap();
        let error = Header::read(file.path()).unwrap_err().to_string();
        assert!(error.ends_with("fetch that with `git lfs pull`"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_laid_out_is_read_back(
            tensors in prop::collection::btree_map(
                "[a-z.\"\\\\é]{1,12}",
                (0usize..4, prop::collection::vec(0u64..70, 0..4)),
                0..20,
            ),
            metadata in ".*",
        ) {
            let tensors: Vec<_> = tensors.iter().map(|(name, (dtype, shape))| (&**name, DTYPE[*dtype], &shape[..])).collect();
            let (beginning, ranges) = lay_out(metadata.clone(), &tensors);
            prop_assert_eq!(beginning.len() as u64 % ALIGNMENT, 0);
            let end = ranges.last().map_or(beginning.len() as u64, |range| range.end);
            let header = parse(&beginning[8..], end).unwrap();
            prop_assert_eq!(header.metadata, Some(metadata));
            prop_assert_eq!(header.tensors.len(), tensors.len());
            for ((name, dtype, shape), range) in tensors.iter().zip(ranges) {
                let found = header.tensors.iter().find(|entry| entry.name == *name).unwrap();
                prop_assert_eq!((found.dtype, &found.shape[..]), (*dtype, *shape));
                prop_assert_eq!(&found.range, &range);
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_a_header_never_a_panic(
            json in prop::collection::vec(any::<u8>(), 0..200), length in any::<u64>(),
        ) {
            let _ = parse(&json, length);
        }

        #[test]
        fn any_offsets_are_an_error_or_lie_in_the_file(
            offsets in prop::collection::vec((any::<u32>(), any::<u32>(), 0u64..9), 1..4), length in 0u64..1 << 33,
        ) {
            let tensors: Vec<String> = offsets.iter().enumerate().map(|(n, (start, end, dim))| {
                format!(r#""{n}":{{"dtype":"U8","shape":[{dim}],"data_offsets":[{start},{end}]}}"#)
            }).collect();
            let json = format!("{{{}}}", tensors.join(","));
            if let Ok(header) = parse(json.as_bytes(), length) {
                prop_assert!(header.tensors.iter().all(|entry| entry.range.end <= length));
            }
        }
    }
}
