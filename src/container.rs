//! SafeTensors: reading headers, and laying out files that we write. Tensor data is
//! neither read nor written here.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Result, bail, ensure, err};
use crate::files::foreign::{self, FIRST_BYTES};
use crate::files::{FileRange, json, require_file};
use crate::tensor::DType;

/// Longest header that is read. The header of a 120B with a tensor per expert has 6 MB.
const LONGEST_HEADER: u64 = 8 << 20;
/// The data of files that we write begins at a multiple of this (a page).
pub const ALIGNMENT: u64 = 4096;
/// The header's metadata key that we write and read.
const METADATA_KEY: &str = "gpt_oss_export";

#[derive(Clone, Debug)]
pub struct Header {
    /// Every tensor, in the order of its bytes.
    pub tensors: Vec<StoredTensor>,
    /// Metadata of a file that an export wrote.
    pub metadata: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub data: FileRange,
}

/// The header of a file as text, and the file's length.
fn read_text(path: &Path) -> Result<(Vec<u8>, u64)> {
    require_file(path)?;
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut first = Vec::with_capacity(FIRST_BYTES);
    file.by_ref().take(FIRST_BYTES as u64).read_to_end(&mut first)?;
    let mut text = vec![0; Header::length(path, &first, length)? as usize];
    file.seek(SeekFrom::Start(8))?;
    file.read_exact(&mut text)?;
    Ok((text, length))
}

/// A header of a file of `length` bytes, and where the data begins.
fn parse_text(path: &str, text: &[u8], length: u64) -> Result<(Metadata, u64)> {
    let invalid = |reason: String| {
        // serde names its own types.
        let reason = reason.replace("struct HashMetadata", "an object");
        err!("`{path}` has an invalid SafeTensors header: {reason}; download it again")
    };
    // Parsed first: unlike the search for duplicates it stops early in hostile files.
    let parsed: Metadata =
        serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
    json::reject_duplicate_keys(text).map_err(invalid)?;
    let start = 8 + text.len() as u64;
    let expected = start.saturating_add(parsed.data_len() as u64);
    let again =
        if has_key(&parsed) { "stage it, or export it, again" } else { "download it again" };
    ensure!(
        expected == length,
        "`{path}` has {length} bytes, but its header describes {expected}: {again}"
    );
    Ok((parsed, start))
}

/// Whether an export wrote the header.
fn has_key(parsed: &Metadata) -> bool {
    parsed.metadata().as_ref().is_some_and(|it| it.contains_key(METADATA_KEY))
}

impl Header {
    /// Whether an export wrote a SafeTensors file, of which data may be missing.
    pub fn is_own(path: &Path) -> bool {
        let parsed = |(text, _): (Vec<u8>, u64)| serde_json::from_slice::<Metadata>(&text).ok();
        read_text(path).ok().and_then(parsed).is_some_and(|it| has_key(&it))
    }

    /// Reads and validates the header of a file: offsets without gaps or overlaps, sizes
    /// that match dtypes and shapes, and the file's length.
    pub fn read(path: &Path) -> Result<Self> {
        let (text, length) = read_text(path)?;
        Self::parse(path, &text, length)
    }

    /// The header's length, from the first bytes of a file of `file_length` bytes.
    pub fn length(path: &Path, first_bytes: &[u8], file_length: u64) -> Result<u64> {
        let path = path.display();
        // Some lengths look like the beginning of another file, but no header does.
        if first_bytes.get(8) != Some(&b'{')
            && let Some(what) = foreign::identify(first_bytes)
        {
            bail!("`{path}` is {what}");
        }
        let Some(prefix) = first_bytes.first_chunk() else {
            bail!(
                "`{path}` has {file_length} bytes, too few for a SafeTensors file: download it again"
            );
        };
        let header = u64::from_le_bytes(*prefix);
        ensure!(
            header <= file_length.saturating_sub(8),
            "`{path}` is truncated or not a SafeTensors file: its first bytes announce a header of {header} bytes, and the file has {file_length}; download it again"
        );
        ensure!(
            header <= LONGEST_HEADER,
            "`{path}` announces a header of {header} bytes, more than any checkpoint needs ({LONGEST_HEADER}): it is damaged or not SafeTensors; download it again"
        );
        Ok(header)
    }

    /// Parses the header `text` of a file of `length` bytes.
    pub fn parse(path: &Path, text: &[u8], length: u64) -> Result<Self> {
        let file: Arc<Path> = path.into();
        let path = path.display().to_string();
        let (parsed, start) = parse_text(&path, text, length)?;
        let tensor = |name: String| {
            let info = parsed.info(&name).expect("listed");
            let dtype = DTYPES.into_iter().find(|(it, _)| *it == info.dtype);
            let (first, end) = info.data_offsets;
            let range = start + first as u64..start + end as u64;
            StoredTensor {
                name,
                dtype: dtype.map_or(DType::Other("unknown"), |(_, dtype)| dtype),
                shape: info.shape.iter().map(|dim| *dim as u64).collect(),
                data: FileRange { file: file.clone(), range },
            }
        };
        let tensors = parsed.offset_keys().into_iter().map(tensor).collect();
        let metadata = parsed.metadata().as_ref().and_then(|map| map.get(METADATA_KEY).cloned());
        Ok(Self { tensors, metadata })
    }
}

/// Lays out a new file: the bytes before the tensor data (length, header and padding),
/// and the byte range of each tensor, in the given order.
pub fn lay_out(metadata: String, tensors: &[(&str, DType, &[u64])]) -> (Vec<u8>, Vec<Range<u64>>) {
    let mut end = 0;
    let info = |(name, dtype, shape): &(&str, DType, &[u64])| {
        let start = end;
        end += dtype.bytes(shape).expect("the size of a tensor that exists") as usize;
        let (theirs, _) = DTYPES.iter().find(|(_, it)| it == dtype).expect("every dtype is listed");
        let shape = shape.iter().map(|dim| *dim as usize).collect();
        ((*name).to_owned(), TensorInfo { dtype: *theirs, shape, data_offsets: (start, end) })
    };
    let infos: Vec<_> = tensors.iter().map(info).collect();
    let offsets: Vec<_> = infos.iter().map(|(_, info)| info.data_offsets).collect();
    let metadata = [(METADATA_KEY.to_owned(), metadata)].into();
    let header = Metadata::new(Some(metadata), infos).expect("laid out without holes");
    let mut json = serde_json::to_vec(&header).expect("a header is plain JSON");
    // The format allows spaces after the header.
    let start = (8 + json.len() as u64).next_multiple_of(ALIGNMENT);
    json.resize(start as usize - 8, b' ');
    let header_bytes = [&(json.len() as u64).to_le_bytes(), &json[..]].concat();
    let ranges = offsets.into_iter().map(|(first, end)| start + first as u64..start + end as u64);
    (header_bytes, ranges.collect())
}

/// Dtypes of the format and ours.
const DTYPES: [(Dtype, DType); 22] = [
    (Dtype::BOOL, DType::Bool),
    (Dtype::U8, DType::U8),
    (Dtype::I8, DType::I8),
    (Dtype::I32, DType::I32),
    (Dtype::I64, DType::I64),
    (Dtype::F8_E4M3, DType::F8E4M3),
    (Dtype::F8_E5M2, DType::F8E5M2),
    (Dtype::F8_E8M0, DType::F8E8M0),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::F32, DType::F32),
    (Dtype::F4, DType::Other("f4")),
    (Dtype::F6_E2M3, DType::Other("f6e2m3")),
    (Dtype::F6_E3M2, DType::Other("f6e3m2")),
    (Dtype::F8_E4M3FNUZ, DType::Other("f8e4m3fnuz")),
    (Dtype::F8_E5M2FNUZ, DType::Other("f8e5m2fnuz")),
    (Dtype::I16, DType::Other("i16")),
    (Dtype::U16, DType::Other("u16")),
    (Dtype::U32, DType::Other("u32")),
    (Dtype::U64, DType::Other("u64")),
    (Dtype::C64, DType::Other("c64")),
    (Dtype::F64, DType::Other("f64")),
];
