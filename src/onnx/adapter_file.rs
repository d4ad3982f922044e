//! `.onnx_adapter`, ONNX Runtime's format for values of optional inputs: a FlatBuffers file of
//! parameters, each with a name, a dtype, a shape and raw bytes.
//!
//! ```text
//! Adapter    format_version i32, adapter_version i32, model_version i32, parameters [Parameter]
//! Parameter  name string, dims [i64], data_type i32 as in ONNX, raw_data [u8] at a multiple of 8
//! ```
//!
//! A table begins with the distance back to its vtable, which has the places of its fields. Other
//! references are distances ahead. All numbers are little-endian.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use fs_err as fs;

use super::encode::{data_type, from_data_type};
use crate::error::{Result, bail, ensure, err};
use crate::files::positional::read_exact_at;
use crate::tensor::DType;

/// What the names of files end in, behind a dot.
pub const ADAPTER_EXTENSION: &str = "onnx_adapter";

const IDENTIFIER: &[u8; 4] = b"TORT";
/// The only version there is.
const FORMAT_VERSION: i32 = 1;
/// That of the adapter, and that of the model: numbers that runtimes hand on.
const VERSIONS: [i32; 2] = [1, 1];
/// Most bytes of a file: FlatBuffers' limit.
const MAX_BYTES: u64 = i32::MAX as u64;
/// Bytes of a vtable of four fields.
const VTABLE: u32 = 12;
/// Bytes of a table of four fields.
const TABLE: u32 = 20;
/// The places of the vtables, of the adapter's table, and of the vector of its parameters.
const ADAPTER_VTABLE: u32 = 8;
const PARAMETER_VTABLE: u32 = ADAPTER_VTABLE + VTABLE;
const ADAPTER: u32 = PARAMETER_VTABLE + VTABLE;
const VECTOR: u32 = ADAPTER + TABLE;
/// What is read at most.
const MOST_PARAMETERS: u32 = 1 << 14;
const LONGEST_NAME: u32 = 4096;
const HIGHEST_RANK: u32 = 16;

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The input of a model that it is for.
    pub name: String,
    /// `None` for element types that are none of ours.
    pub dtype: Option<DType>,
    /// A `[r, in]` or B `[out, r]`, with experts as the first axis.
    pub shape: Vec<u64>,
}

/// Everything of a file but the bytes of its parameters.
#[derive(Clone, Debug)]
pub struct AdapterHead {
    /// Of the format, 1.
    pub format_version: i32,
    /// Numbers that whoever wrote the file gave the adapter and its model.
    pub adapter_version: i32,
    pub model_version: i32,
    /// With the places of their bytes.
    pub parameters: Vec<(Parameter, Range<u64>)>,
}

/// The bytes of a file before those of its first parameter, and where those of each go. Its length
/// precedes each; the rest are zeros.
pub fn adapter_head(parameters: &[Parameter]) -> Result<(Vec<u8>, Vec<Range<u64>>)> {
    let count = parameters.len() as u32;
    let tables = VECTOR + 4 + 4 * count;
    let behind = tables + TABLE * count;
    let (texts, places) = names_and_shapes(parameters, behind);
    let ranges = data_ranges(parameters, u64::from(behind) + texts.len() as u64)?;
    let mut head = adapter_table(count);
    push(&mut head, (0..count).map(|at| tables + TABLE * at - (VECTOR + 4 + 4 * at)));
    for ((parameter, [name, shape]), data) in parameters.iter().zip(places).zip(&ranges) {
        let (here, data) = (head.len() as u32, data.start as u32 - 4);
        let dtype = data_type(parameter.dtype.expect("one of ours")) as u32;
        push(&mut head, [here - PARAMETER_VTABLE, name - here - 4, shape - here - 8, dtype]);
        push(&mut head, [data - here - 16]);
    }
    head.extend(texts);
    Ok((head, ranges))
}

/// The beginning of a file: the vtables, the table of the adapter, and the length of the vector of its
/// parameters.
fn adapter_table(count: u32) -> Vec<u8> {
    let mut head = Vec::new();
    push(&mut head, [ADAPTER]);
    head.extend(IDENTIFIER);
    let vtable = [VTABLE, TABLE, 4, 8, 12, 16].map(|it| (it as u16).to_le_bytes());
    head.extend([vtable, vtable].as_flattened().as_flattened());
    push(&mut head, [ADAPTER - ADAPTER_VTABLE, FORMAT_VERSION as u32]);
    push(&mut head, VERSIONS.map(|it| it as u32));
    push(&mut head, [4, count]);
    head
}

/// The bytes of names and shapes that begin at a place, and the places of those of each parameter.
fn names_and_shapes(parameters: &[Parameter], start: u32) -> (Vec<u8>, Vec<[u32; 2]>) {
    let (mut bytes, mut places) = (Vec::new(), Vec::new());
    for Parameter { name, shape, .. } in parameters {
        let end = |bytes: &[u8]| start + bytes.len() as u32;
        let named = end(&bytes);
        push(&mut bytes, [name.len() as u32]);
        bytes.extend(name.bytes().chain([0]));
        // The sizes of the shape, behind their number, begin at a multiple of 8.
        while end(&bytes) % 8 != 4 {
            bytes.push(0);
        }
        places.push([named, end(&bytes)]);
        push(&mut bytes, [shape.len() as u32]);
        bytes.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
    }
    (bytes, places)
}

/// Where the bytes of each parameter go, at multiples of 8 behind their length.
fn data_ranges(parameters: &[Parameter], mut end: u64) -> Result<Vec<Range<u64>>> {
    let size = |it: &Parameter| it.dtype.and_then(|dtype| dtype.bytes(&it.shape));
    let sizes = parameters.iter().map(|it| size(it).unwrap_or(u64::MAX));
    let all = sizes.clone().fold(0, u64::saturating_add);
    let range = |size: u64| {
        let start = (end + 4).next_multiple_of(8);
        end = start.saturating_add(size);
        ensure!(
            end <= MAX_BYTES,
            "the adapter takes {all} bytes, and a file of ONNX Runtime's format holds less than {MAX_BYTES}: a model can have it inline"
        );
        Ok(start..end)
    };
    sizes.map(range).collect()
}

fn push(bytes: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>) {
    bytes.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
}

/// Reads everything of a file but the bytes of its parameters, whoever wrote it.
pub fn read_adapter(path: &Path) -> Result<AdapterHead> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let reader = FlatBuffer { file: file.file(), length };
    reader.adapter().map_err(|error| {
        err!("`{}` is not an adapter for ONNX Runtime, or is truncated: {error}", path.display())
    })
}

struct FlatBuffer<'f> {
    file: &'f File,
    length: u64,
}

impl FlatBuffer<'_> {
    fn adapter(&self) -> Result<AdapterHead> {
        ensure!(
            self.bytes::<4>(4)? == *IDENTIFIER,
            "it does not have the identifier TORT at byte 4"
        );
        let root = self.target(0)?;
        let number = |field| self.field(root, field)?.map_or(Ok(0), |at| self.int(at));
        let mut parameters = Vec::new();
        if let Some(at) = self.field(root, 3)? {
            let vector = self.target(at)?;
            for entry in self.vector(vector, 4, MOST_PARAMETERS)?.step_by(4) {
                parameters.push(self.parameter(self.target(entry)?)?);
            }
        }
        let [format_version, adapter_version, model_version] = [number(0)?, number(1)?, number(2)?];
        Ok(AdapterHead { format_version, adapter_version, model_version, parameters })
    }

    fn parameter(&self, table: u64) -> Result<(Parameter, Range<u64>)> {
        let vector = |field: u64, width, most| {
            let at = self.field(table, field)?.ok_or_else(|| err!("a parameter lacks a field"))?;
            self.vector(self.target(at)?, width, most)
        };
        let name = vector(0, 1, LONGEST_NAME)?;
        let mut text = vec![0; (name.end - name.start) as usize];
        self.read(&mut text, name.start)?;
        let name = String::from_utf8(text).map_err(|_| err!("a name is not UTF-8"))?;
        let sizes = vector(1, 8, HIGHEST_RANK)?.step_by(8).map(|at| {
            let size = i64::from_le_bytes(self.bytes(at)?);
            u64::try_from(size).map_err(|_| err!("`{name}` has a side of {size}"))
        });
        let shape = sizes.collect::<Result<Vec<u64>>>()?;
        let dtype = self.field(table, 2)?.map_or(Ok(0), |at| self.int(at))?;
        let (dtype, data) = (from_data_type(dtype), vector(3, 1, MAX_BYTES as u32)?);
        let expected = dtype.map(|it| it.bytes(&shape));
        if let Some(expected) = expected.filter(|it| *it != Some(data.end - data.start)) {
            let expected = expected.map_or("more".to_owned(), |it| it.to_string());
            bail!("`{name}` {shape:?} has {} bytes, expected {expected}", data.end - data.start);
        }
        Ok((Parameter { name, dtype, shape }, data))
    }

    /// The place of a table's field, if it has it.
    fn field(&self, table: u64, field: u64) -> Result<Option<u64>> {
        let vtable = table.checked_add_signed(-i64::from(self.int(table)?));
        let vtable = vtable.ok_or_else(|| err!("a table lies before the file"))?;
        let short = |at| self.bytes(at).map(|it| u64::from(u16::from_le_bytes(it)));
        let entry = 4 + 2 * field;
        if entry + 2 > short(vtable)? {
            return Ok(None);
        }
        let place = short(vtable + entry)?;
        Ok((place != 0).then_some(table + place))
    }

    /// The entries of a vector, of at most so many.
    fn vector(&self, at: u64, width: u64, most: u32) -> Result<Range<u64>> {
        let count = u32::from_le_bytes(self.bytes(at)?);
        let end = at + 4 + u64::from(count) * width;
        ensure!(count <= most && end <= self.length, "a list of {count} does not fit");
        Ok(at + 4..end)
    }

    fn target(&self, at: u64) -> Result<u64> {
        Ok(at + u64::from(u32::from_le_bytes(self.bytes(at)?)))
    }

    fn int(&self, at: u64) -> Result<i32> {
        Ok(i32::from_le_bytes(self.bytes(at)?))
    }

    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes, at)?;
        Ok(bytes)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        ensure!(at.saturating_add(bytes.len() as u64) <= self.length, "it ends before byte {at}");
        Ok(read_exact_at(self.file, bytes, at)?)
    }
}
