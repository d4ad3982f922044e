//! What an ONNX file says: of any model, not only of ours.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use fs_err as fs;
use prost::Message;

use super::interface::{Interface, Size};
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::dimension;
use super::proto::type_proto::Value;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use super::{LARGEST, from_data_type};
use crate::tensor::DType;

/// An ONNX file, without the bytes of its tensors.
#[derive(Clone, Debug)]
pub struct Description {
    /// Of the file itself.
    pub bytes: u64,
    /// Version of the format.
    pub ir_version: i64,
    /// What wrote it.
    pub producer: String,
    /// Versions of operator sets by domain; `ai.onnx` is the standard's.
    pub opsets: BTreeMap<String, i64>,
    /// What it says of itself to programs.
    pub properties: BTreeMap<String, String>,
    /// What it takes.
    pub inputs: Vec<Interface>,
    /// What it gives.
    pub outputs: Vec<Interface>,
    /// Names of model-local functions.
    pub functions: Vec<String>,
    /// How often each operator stands in graph, subgraphs and functions; those that
    /// are not of the standard come with their domain.
    pub operators: BTreeMap<String, usize>,
    /// Stored tensors of graph, subgraphs and functions; of those in attributes the
    /// ones in other files.
    pub initializers: Vec<Initializer>,
}

/// A stored tensor.
#[derive(Clone, Debug)]
pub struct Initializer {
    /// Its name.
    pub name: String,
    /// Its element type, if any checkpoint or graph of ours uses it.
    pub dtype: Option<DType>,
    /// One number for each axis.
    pub shape: Vec<u64>,
    /// Where its bytes are; nothing for those in the file.
    pub external: Option<External>,
}

/// Bytes in another file.
#[derive(Clone, Debug)]
pub struct External {
    /// As the model names it: relative to the model's folder.
    pub file: String,
    /// From the beginning of that file.
    pub offset: u64,
    /// How many; to the end of the file when it does not say.
    pub length: Option<u64>,
}

/// Why a file is not an ONNX model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("there is no file `{}`", .0.display())]
    NoFile(PathBuf),
    #[error("`{}` has {bytes} bytes, more than an ONNX file can have", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("`{}` is not an ONNX model: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
}

/// Reads a model.
pub fn read(path: &Path) -> Result<Description, ReadError> {
    if !path.is_file() {
        return Err(ReadError::NoFile(path.to_owned()));
    }
    let bytes = fs::metadata(path)?.len();
    if bytes > LARGEST as u64 {
        return Err(ReadError::TooLarge { path: path.to_owned(), bytes });
    }
    describe(path, &fs::read(path)?)
}

/// What a model says whose file, at this path, has these bytes.
pub fn describe(path: &Path, file: &[u8]) -> Result<Description, ReadError> {
    let invalid = |reason: String| ReadError::Invalid { path: path.to_owned(), reason };
    let model = ModelProto::decode(file).map_err(|error| invalid(error.to_string()))?;
    let graph = model.graph.ok_or_else(|| invalid("it has no graph".to_owned()))?;
    let mut seen = Seen::default();
    seen.graph(&graph).map_err(invalid)?;
    model.functions.iter().try_for_each(|function| seen.nodes(&function.node)).map_err(invalid)?;
    let opset = |domain: String| if domain.is_empty() { "ai.onnx".to_owned() } else { domain };
    Ok(Description {
        bytes: file.len() as u64,
        ir_version: model.ir_version,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        opsets: model
            .opset_import
            .into_iter()
            .map(|set| (opset(set.domain), set.version))
            .collect(),
        properties: model
            .metadata_props
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect(),
        inputs: interfaces(&graph, &graph.input),
        outputs: interfaces(&graph, &graph.output),
        functions: model.functions.into_iter().map(|function| function.name).collect(),
        operators: seen.operators,
        initializers: seen.initializers,
    })
}

/// What stands in a model, wherever it is nested.
#[derive(Default)]
struct Seen {
    operators: BTreeMap<String, usize>,
    initializers: Vec<Initializer>,
}

impl Seen {
    fn graph(&mut self, graph: &GraphProto) -> Result<(), String> {
        for tensor in &graph.initializer {
            self.initializers.push(initializer(tensor, &tensor.name)?);
        }
        self.nodes(&graph.node)
    }

    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<(), String> {
        for node in nodes {
            let name = match &*node.domain {
                "" | "ai.onnx" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            };
            *self.operators.entry(name).or_default() += 1;
            for attribute in &node.attribute {
                for tensor in attribute.t.iter().chain(&attribute.tensors) {
                    // Of constants there are many; what matters is what is elsewhere.
                    if tensor.data_location() == DataLocation::External {
                        let name = [&tensor.name, node.output.first().unwrap_or(&node.op_type)];
                        let name = name.into_iter().find(|name| !name.is_empty());
                        let name = name.unwrap_or(&attribute.name);
                        self.initializers.push(initializer(tensor, name)?);
                    }
                }
                attribute.g.iter().chain(&attribute.graphs).try_for_each(|g| self.graph(g))?;
            }
        }
        Ok(())
    }
}

/// Older files list initializers among the inputs.
fn interfaces(graph: &GraphProto, values: &[ValueInfoProto]) -> Vec<Interface> {
    let stored: HashSet<&str> = graph.initializer.iter().map(|tensor| &*tensor.name).collect();
    values.iter().filter(|value| !stored.contains(&*value.name)).map(interface).collect()
}

fn interface(info: &ValueInfoProto) -> Interface {
    let tensor = info.r#type.as_ref().and_then(|kind| {
        let Value::TensorType(tensor) = kind.value.as_ref()?;
        Some(tensor)
    });
    let size = |dim: &super::proto::tensor_shape_proto::Dimension| match &dim.value {
        Some(dimension::Value::DimValue(size)) if *size >= 0 => Size::Known(*size as u64),
        Some(dimension::Value::DimParam(name)) => Size::Symbol(name.clone()),
        _ => Size::Symbol("?".to_owned()),
    };
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    Interface {
        name: info.name.clone(),
        dtype: dtype_name(tensor.map_or(0, |tensor| tensor.elem_type)),
        shape: shape.map_or_else(Vec::new, |shape| shape.dim.iter().map(size).collect()),
    }
}

fn dtype_name(number: i32) -> String {
    let known = DataType::try_from(number).ok().and_then(from_data_type);
    known.map_or_else(|| format!("ONNX type {number}"), |dtype| dtype.to_string())
}

/// A stored tensor, under the name that it has or is given.
fn initializer(tensor: &TensorProto, name: &str) -> Result<Initializer, String> {
    let name = name.to_owned();
    let shape = tensor.dims.iter().map(|dim| u64::try_from(*dim));
    let shape = shape
        .collect::<Result<_, _>>()
        .map_err(|_| format!("initializer `{name}` has the shape {:?}", tensor.dims))?;
    let external = match tensor.data_location() {
        DataLocation::External => Some(external(tensor, &name)?),
        DataLocation::Default => None,
    };
    let dtype = DataType::try_from(tensor.data_type).ok().and_then(from_data_type);
    Ok(Initializer { name, dtype, shape, external })
}

fn external(tensor: &TensorProto, name: &str) -> Result<External, String> {
    let entry = |key: &str| {
        tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &*entry.value)
    };
    let number = |key: &str| {
        entry(key).map(str::parse).transpose().map_err(|_| {
            format!("the {key} of initializer `{name}` is {:?}", entry(key).unwrap_or(""))
        })
    };
    let file = entry("location").unwrap_or_default().to_owned();
    Ok(External { file, offset: number("offset")?.unwrap_or(0), length: number("length")? })
}
