//! The tensors of a checkpoint: which files hold them, and where.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use serde::Deserialize;

use super::names::{canonical, common_prefix, matches_any, without_wrappers};
use crate::error::{Error, Result, bail, ensure, err};
use crate::files::{FileRange, json};
use crate::reference::matrix::{EncodedNumbers, Encoding, StoredMatrix};
use crate::tensor::DType;

/// The most bytes of a header, as in the library of SafeTensors, and of an index.
const MOST: u64 = 100_000_000;

/// The key in a file's metadata by which a staged weights file is known.
const STAGED: &str = "gpt_oss_export";

/// A tensor in a file.
#[derive(Clone)]
pub struct TensorInFile {
    /// `None` if the reference has no use for it.
    pub dtype: Option<DType>,
    pub shape: Vec<u64>,
    pub data: FileRange,
    pub precedence: Precedence,
}

/// Which of several tensors with one meaning is read: the last of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precedence {
    /// The user declares it to be of no use.
    Ignored,
    OfCheckpoint,
    OfAdapter,
}

/// Tensors by the names that the reference has for them.
pub type TensorsInFiles = HashMap<String, TensorInFile>;

/// An expert, and the number of all in its layer.
pub type OneOf = [u64; 2];

const FLOATS: &[DType] = &[DType::F32, DType::BF16, DType::F16, DType::F8E5M2];

/// Tensors to look up.
pub struct NamedTensors<'r> {
    /// Where they are from, for errors.
    pub source: &'r Path,
    pub by_name: TensorsInFiles,
}

impl NamedTensors<'_> {
    /// A matrix of floats, or a vector.
    pub fn floats(
        &self,
        name: &str,
        expert: Option<OneOf>,
        shape: &[u64],
        is_transposed: bool,
    ) -> Result<StoredMatrix> {
        let (data, dtype) = self.tensor(name, FLOATS, expert, shape)?;
        let numbers = EncodedNumbers { encoding: Encoding::Float(dtype), parts: vec![data] };
        let sides = if let [rows, columns] = *shape { [rows, columns] } else { [1, shape[0]] };
        Ok(numbers.matrix(expert, sides, is_transposed))
    }

    /// The data and the dtype of a tensor that has one of these dtypes and, for each expert, this
    /// shape.
    pub fn tensor(
        &self,
        name: &str,
        dtypes: &[DType],
        expert: Option<OneOf>,
        shape: &[u64],
    ) -> Result<(FileRange, DType)> {
        let shape = [expert.map(|[_, all]| all).as_slice(), shape].concat();
        let TensorInFile { dtype, shape: found, data, .. } = self.get(name)?;
        let (file, bytes) = (data.file.display(), data.len());
        let fits = |it: &DType| dtypes.contains(it) && it.bytes(&shape) == Some(bytes);
        let dtype = dtype.filter(|it| *found == shape && fits(it)).ok_or_else(|| {
            let dtypes: Vec<String> = dtypes.iter().map(DType::to_string).collect();
            let dtypes = dtypes.join(", ");
            err!("`{file}`: `{name}` has shape {found:?} in {bytes} bytes, expected {shape:?} in {dtypes}")
        })?;
        Ok((data.clone(), dtype))
    }

    pub fn get(&self, name: &str) -> Result<&TensorInFile> {
        self.by_name.get(name).ok_or_else(|| self.lacks(name))
    }

    pub fn lacks(&self, name: &str) -> Error {
        err!("`{}` has no tensor that the reference could read as `{name}`", self.source.display())
    }
}

/// The header of a SafeTensors file.
#[derive(Deserialize)]
struct FileStart {
    #[serde(rename = "__metadata__", default)]
    metadata: HashMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    /// Bytes after the header.
    data_offsets: [u64; 2],
}

/// The shards of tensors.
#[derive(Default, Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, PathBuf>,
}

/// The tensors of a folder, by an index if there is one.
pub fn of_folder(folder: &Path, ignored: &[String]) -> Result<TensorsInFiles> {
    let (index, single) =
        (folder.join("model.safetensors.index.json"), folder.join("model.safetensors"));
    let mut map = BTreeMap::new();
    let files: BTreeSet<PathBuf> = if index.exists() {
        map = json::parse::<ShardIndex>(index.display(), &json::read(&index, MOST)?)?.weight_map;
        map.values_mut().for_each(|file| *file = folder.join(&*file));
        // Entries of no use may name files that are not there.
        map.retain(|_, file| file.exists());
        map.values().cloned().collect()
    } else if single.exists() {
        BTreeSet::from([single])
    } else {
        let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        let mut paths = paths.collect::<Result<BTreeSet<_>>>()?;
        // macOS puts companions beside files that it copies.
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".safetensors") && !name.starts_with("._")
        });
        paths
    };
    let mut stored: BTreeMap<String, TensorInFile> = BTreeMap::new();
    for file in files {
        let (metadata, tensors) = read_file(&file)?;
        if metadata.contains_key(STAGED) && map.is_empty() {
            continue;
        }
        for (name, tensor) in tensors {
            if map.get(&name).is_some_and(|home| *home != file) {
                continue;
            }
            if let Some(other) = stored.get(&name) {
                let (one, other) = (file.display(), other.data.file.display());
                bail!("tensor `{name}` is both in `{other}` and in `{one}`: remove one");
            }
            stored.insert(name, tensor);
        }
    }
    by_canonical_name(stored, ignored)
}

/// The tensors of a staged weights file, and its metadata.
pub fn of_staged(file: &Path, ignored: &[String]) -> Result<(TensorsInFiles, String)> {
    let (mut metadata, tensors) = read_file(file)?;
    let metadata = metadata.remove(STAGED);
    let metadata = metadata.ok_or_else(|| {
        err!("`{}` is not a staged weights file: its metadata lacks `{STAGED}`", file.display())
    })?;
    Ok((by_canonical_name(tensors, ignored)?, metadata))
}

/// Strips a prefix that all names have.
fn by_canonical_name(
    stored: BTreeMap<String, TensorInFile>,
    ignored: &[String],
) -> Result<TensorsInFiles> {
    let stored = stored.into_iter().map(|(name, tensor)| {
        let is_ignored = matches_any(ignored, &name);
        let precedence = if is_ignored { Precedence::Ignored } else { tensor.precedence };
        (without_wrappers(&name), TensorInFile { precedence, ..tensor })
    });
    let stored: Vec<(String, TensorInFile)> = stored.collect();
    let needed = stored.iter().filter(|(_, tensor)| tensor.precedence > Precedence::Ignored);
    let needed = needed.map(|(name, _)| &**name);
    let prefix = needed.reduce(common_prefix).unwrap_or_default().to_owned();
    let mut tensors = HashMap::new();
    for (name, tensor) in stored {
        let file = tensor.data.file.clone();
        let short = canonical(name.strip_prefix(&*prefix).unwrap_or(&name));
        ensure!(
            tensors.insert(short, tensor).is_none(),
            "`{}` has `{name}` under another name too: remove one",
            file.display()
        );
    }
    Ok(tensors)
}

/// The metadata and the tensors of a SafeTensors file.
pub fn read_file(path: &Path) -> Result<(HashMap<String, String>, BTreeMap<String, TensorInFile>)> {
    let (shown, mut file) = (path.display(), json::open(path, u64::MAX)?);
    let (length, mut announced) = (fs::metadata(path)?.len(), [0; 8]);
    let damaged = |what| err!("`{shown}` {what}: it is damaged or not a SafeTensors file");
    file.read_exact(&mut announced).map_err(|_| damaged(format!("has {length} bytes")))?;
    let announced = u64::from_le_bytes(announced);
    if announced > MOST.min(length.saturating_sub(8)) {
        return Err(damaged(format!("has {length} bytes and announces a header of {announced}")));
    }
    let mut text = vec![0; announced as usize];
    file.read_exact(&mut text)?;
    let FileStart { metadata, tensors } = json::parse(&shown, &text)?;
    let (file, start): (Arc<Path>, u64) = (path.into(), 8 + announced);
    let located = tensors.into_iter().map(|(name, Entry { dtype, shape, data_offsets })| {
        let ([from, to], most) = (data_offsets, length - start);
        ensure!(
            from <= to && to <= most,
            "`{shown}`: tensor `{name}` is at {from}..{to} of {most} bytes: the file is damaged"
        );
        let dtype = dtype_of(&dtype);
        let data = FileRange { file: file.clone(), range: start + from..start + to };
        Ok((name, TensorInFile { dtype, shape, data, precedence: Precedence::OfCheckpoint }))
    });
    Ok((metadata, located.collect::<Result<_>>()?))
}

fn dtype_of(name: &str) -> Option<DType> {
    match name {
        "BF16" => Some(DType::BF16),
        "F16" => Some(DType::F16),
        "F32" => Some(DType::F32),
        "F8_E4M3" => Some(DType::F8E4M3),
        "F8_E5M2" => Some(DType::F8E5M2),
        "F8_E8M0" => Some(DType::F8E8M0),
        "U8" => Some(DType::U8),
        "I8" => Some(DType::I8),
        _ => None,
    }
}
