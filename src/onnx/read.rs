//! What an ONNX file contains; any model can be read, not only our own.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use fs_err as fs;
use prost::Message;
use serde::Serialize;

use super::data_digest::by_file;
use super::encode::{MAX_BYTES, from_data_type};
use super::proto::tensor_proto::DataLocation;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::type_proto::Value as TypeValue;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::error::{Result, ensure, err};
use crate::files::{FileRange, foreign, parent_dir};
use crate::graph::{Dim, Fact, joined};
use crate::tensor::DType;

/// An ONNX file without the bytes of its tensors.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct OnnxFile {
    pub bytes: u64,
    pub ir_version: i64,
    /// Name and version of the program that wrote it.
    pub producer: String,
    /// Versions of operator sets by domain; the standard's is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// `metadata_props`.
    pub properties: BTreeMap<String, String>,
    pub inputs: Vec<ValueInfo>,
    /// Inputs with a default. Older files list all initializers among the inputs.
    #[serde(skip)]
    pub optional: Vec<ValueInfo>,
    pub outputs: Vec<ValueInfo>,
    /// Names of model-local functions.
    pub functions: Vec<String>,
    /// Numbers of nodes by operator, in graph, subgraphs and functions. Operators outside
    /// the standard have their domain as a prefix.
    pub operators: BTreeMap<String, usize>,
    /// Initializers of graph and subgraphs, and tensors with external data in attributes.
    #[serde(skip)]
    pub initializers: Vec<StoredInitializer>,
}

#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct StoredInitializer {
    pub name: String,
    /// Its element type, if it is one of ours.
    pub dtype: Option<DType>,
    pub shape: Vec<u64>,
    /// Its bytes if they are in another file, whose path is relative to the model's folder.
    pub external: Option<FileRange>,
}

/// The name of an element type; `None` is none of ours.
pub fn dtype_name(dtype: Option<DType>) -> String {
    dtype.map_or("another type".to_owned(), |dtype| dtype.to_string())
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct ValueInfo {
    pub name: String,
    /// Element type.
    pub dtype: String,
    pub shape: Vec<Dim>,
}

impl ValueInfo {
    pub(crate) fn new(name: &str, Fact { dtype, shape }: &Fact) -> Self {
        Self { name: name.to_owned(), dtype: dtype.to_string(), shape: shape.clone() }
    }

    /// One line for each run of values that differ in their names only, such as the keys
    /// and values of all layers.
    pub fn lines(values: &[Self]) -> impl Iterator<Item = String> {
        let is_like = |a: &Self, b: &Self| (&a.dtype, &a.shape) == (&b.dtype, &b.shape);
        values.chunk_by(is_like).map(|alike| {
            let Self { name, dtype, shape } = &alike[0];
            let more = match alike {
                [_] => String::new(),
                [_, second] => format!(", {}", second.name),
                [.., last] => format!(" … {}", last.name),
                [] => unreachable!("chunks are not empty"),
            };
            format!("{name}{more} {dtype} [{}]", joined(shape, ", "))
        })
    }
}

pub fn read(path: &Path) -> Result<OnnxFile> {
    ensure!(
        !path.is_dir(),
        "`{}` is a folder, expected an ONNX model: name its file",
        path.display()
    );
    ensure!(path.is_file(), "there is no file `{}`{}", path.display(), first_stage(path));
    let bytes = fs::metadata(path)?.len();
    ensure!(
        bytes <= MAX_BYTES as u64,
        "`{}` has {bytes} bytes, and an ONNX file has at most {MAX_BYTES}: choose another file",
        path.display()
    );
    let file = fs::read(path)?;
    parse(&file, parent_dir(path)).map_err(|error| match foreign::identify(&file) {
        Some(what) => err!("`{}` is {what}", path.display()),
        None if !has_extension(path) => {
            err!("`{}` is not an ONNX model: give a file whose name ends in .onnx", path.display())
        }
        None => {
            err!(
                "`{}` is not an ONNX model, or is truncated ({error}): export again",
                path.display()
            )
        }
    })
}

/// Whether a path has the extension of ONNX models.
pub fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "onnx")
}

/// The first stage of a model of which this would be the name without stages.
fn first_stage(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let entries = parent_dir(path).read_dir().into_iter().flatten().flatten();
    let start = format!("{stem}.stage-1-of-");
    let is_first = |name: &str| name.starts_with(&start) && name.ends_with(".onnx");
    let mut names = entries.filter_map(|it| it.file_name().into_string().ok());
    names.find(|name| is_first(name)).map_or(String::new(), |name| {
        format!(" (did you mean `{}`, of a model in stages?)", path.with_file_name(name).display())
    })
}

fn parse(file: &[u8], folder: &Path) -> Result<OnnxFile> {
    let model = ModelProto::decode(file).map_err(|error| err!("{error}"))?;
    let graph = model.graph.ok_or_else(|| err!("it has no graph"))?;
    let opset = |domain: String| if domain.is_empty() { "ai.onnx".to_owned() } else { domain };
    let opsets = model.opset_import.into_iter().map(|set| (opset(set.domain), set.version));
    let properties = model.metadata_props.into_iter().map(|entry| (entry.key, entry.value));
    let stored: HashSet<&str> = graph.initializer.iter().map(|tensor| &*tensor.name).collect();
    let (optional, inputs): (Vec<_>, _) =
        graph.input.iter().partition(|it| stored.contains(&*it.name));
    let infos = |values: Vec<&ValueInfoProto>| values.into_iter().map(value_info).collect();
    let mut found = OnnxFile {
        bytes: file.len() as u64,
        ir_version: model.ir_version,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        opsets: opsets.collect(),
        properties: properties.collect(),
        inputs: infos(inputs),
        optional: infos(optional),
        outputs: graph.output.iter().map(value_info).collect(),
        functions: model.functions.iter().map(|function| function.name.clone()).collect(),
        operators: BTreeMap::new(),
        initializers: Vec::new(),
    };
    found.add_graph(&graph, folder)?;
    model.functions.iter().try_for_each(|function| found.add_nodes(&function.node, folder))?;
    Ok(found)
}

impl OnnxFile {
    /// Initializers whose bytes are in other files.
    pub fn external_data(&self) -> impl Iterator<Item = (&StoredInitializer, &FileRange)> {
        self.initializers.iter().filter_map(|stored| Some((stored, stored.external.as_ref()?)))
    }

    /// What is read of each file, by the model's name of it.
    pub fn external_files(&self) -> BTreeMap<String, Vec<FileRange>> {
        by_file(self.external_data().map(|(_, external)| external))
    }

    fn add_graph(&mut self, graph: &GraphProto, folder: &Path) -> Result<()> {
        let mut tensors = graph.initializer.iter();
        tensors.try_for_each(|tensor| self.add_tensor(tensor, &tensor.name, folder))?;
        self.add_nodes(&graph.node, folder)
    }

    fn add_nodes(&mut self, nodes: &[NodeProto], folder: &Path) -> Result<()> {
        for node in nodes {
            let name = match &*node.domain {
                "" | "ai.onnx" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            };
            *self.operators.entry(name).or_default() += 1;
            for attribute in &node.attribute {
                // Inline constants are many and need no files.
                let tensors = attribute.t.iter().chain(&attribute.tensors);
                for tensor in tensors.filter(|it| it.data_location() == DataLocation::External) {
                    let names = [&tensor.name, node.output.first().unwrap_or(&node.op_type)];
                    let name = names.into_iter().find(|name| !name.is_empty());
                    self.add_tensor(tensor, name.unwrap_or(&attribute.name), folder)?;
                }
                let mut graphs = attribute.g.iter().chain(&attribute.graphs);
                graphs.try_for_each(|graph| self.add_graph(graph, folder))?;
            }
        }
        Ok(())
    }

    fn add_tensor(&mut self, tensor: &TensorProto, name: &str, folder: &Path) -> Result<()> {
        let shape = tensor.dims.iter().map(|dim| u64::try_from(*dim)).collect::<Result<_, _>>();
        let shape: Vec<u64> =
            shape.map_err(|_| err!("initializer `{name}` has the shape {:?}", tensor.dims))?;
        let dtype = from_data_type(tensor.data_type);
        let bytes = dtype.and_then(|dtype| dtype.bytes(&shape));
        let is_external = tensor.data_location() == DataLocation::External;
        let external = is_external.then(|| byte_range(tensor, name, bytes, folder)).transpose()?;
        self.initializers.push(StoredInitializer { name: name.to_owned(), dtype, shape, external });
        Ok(())
    }
}

/// The byte range of a tensor in another file. Without a length it has the bytes of its
/// dtype and shape, or if those are unknown the rest of the file.
fn byte_range(
    tensor: &TensorProto,
    name: &str,
    bytes: Option<u64>,
    folder: &Path,
) -> Result<FileRange> {
    let entry = |key: &str| {
        tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &*entry.value)
    };
    let number = |key: &str| {
        let Some(value) = entry(key) else { return Ok(None) };
        let parsed = value.parse::<u64>().map(Some);
        parsed.map_err(|_| err!("the {key} of initializer `{name}` is {value:?}"))
    };
    let file = Path::new(entry("location").unwrap_or_default());
    let start = number("offset")?.unwrap_or(0);
    let rest = || fs::metadata(folder.join(file)).map_or(0, |it| it.len());
    let length = number("length")?.or(bytes);
    let length = length.unwrap_or_else(|| rest().saturating_sub(start));
    Ok(FileRange { file: file.into(), range: start..start.saturating_add(length) })
}

fn value_info(info: &ValueInfoProto) -> ValueInfo {
    let value = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let tensor = value.map(|TypeValue::TensorType(tensor)| tensor.clone()).unwrap_or_default();
    let dim = |dim: &Dimension| match &dim.value {
        Some(dimension::Value::DimValue(size)) if *size >= 0 => Dim::from(*size as u64),
        Some(dimension::Value::DimParam(name)) => Dim::symbol(&**name),
        _ => Dim::symbol("?"),
    };
    let (number, dims) = (tensor.elem_type, tensor.shape.unwrap_or_default().dim);
    let dtype = from_data_type(number);
    ValueInfo {
        name: info.name.clone(),
        dtype: dtype.map_or_else(|| format!("ONNX type {number}"), |dtype| dtype.to_string()),
        shape: dims.iter().map(dim).collect(),
    }
}
