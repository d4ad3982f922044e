//! Graph to protobuf, one function for each kind of message.

use std::collections::BTreeSet;
use std::ops::Range;

use prost::Message;

use super::proto::attribute_proto::AttributeType as Type;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::type_proto::{Tensor, Value as TypeValue};
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};
use crate::error::{Result, ensure, err};
use crate::files::FileRange;
use crate::graph::{
    Attribute, Body, Data, Dim, FUNCTIONS, Fact, Function, Graph, Initializer, Model, Node, ONNX,
    ValueId,
};
use crate::tensor::DType;

/// The opset of ai.onnx that graphs are written in.
pub const OPSET: i64 = 23;
/// The IR version of this opset; newer ones shut out older runtimes.
const IR_VERSION: i64 = 11;
/// The IR version that brought FLOAT8E8M0.
const IR_VERSION_OF_F8E8M0: i64 = 12;
/// The key under which ONNX Runtime looks for the part of a model that a node belongs to.
const PART: &str = "layer_ann";
/// The operator of a value that the graph contains.
const CONSTANT: &str = "Constant";
/// Protobuf's limit.
pub(super) const MAX_BYTES: usize = i32::MAX as usize;

/// ONNX's element types and ours.
const DTYPES: [(DataType, DType); 11] = [
    (DataType::Bool, DType::Bool),
    (DataType::Uint8, DType::U8),
    (DataType::Int8, DType::I8),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
    (DataType::Float8e4m3fn, DType::F8E4M3),
    (DataType::Float8e5m2, DType::F8E5M2),
    (DataType::Float8e8m0, DType::F8E8M0),
    (DataType::Float16, DType::F16),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Float, DType::F32),
];

/// The part of the model that a node belongs to, by its name.
type PartOf = fn(&str) -> String;
/// The byte range of a weight, with a path relative to the model's folder.
type Locate<'l> = &'l dyn Fn(&str) -> Option<FileRange>;

/// The bytes of the ONNX file.
pub fn encode(
    model: &Model,
    doc_string: &str,
    properties: &[(&str, String)],
    locate: Locate,
    part_of: PartOf,
) -> Result<Vec<u8>> {
    let Model { main, functions, .. } = model;
    let graphs = functions.iter().map(|function| &function.graph).chain([main]);
    let initializers = main.initializers.iter().map(|init| initializer(main, init, locate));
    let initializer = initializers.collect::<Result<_>>()?;
    let optional = main.initializers.iter().filter(|it| it.data == Data::Empty);
    let optional = optional.map(|it| value_info(main, it.value));
    let mut graph = GraphProto { initializer, ..body(main, &main.body, "gpt_oss") };
    graph.input.extend(optional);
    name_parts(&mut graph.node, part_of);
    let mut functions: Vec<FunctionProto> = functions.iter().map(function).collect();
    functions.iter_mut().for_each(|it| name_parts(&mut it.node, part_of));
    let message = ModelProto {
        ir_version: ir_version(model),
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: doc_string.to_owned(),
        graph: Some(graph),
        opset_import: opsets(graphs),
        metadata_props: properties.iter().map(|(key, value)| entry(key, value)).collect(),
        functions,
    };
    let size = message.encoded_len();
    ensure!(
        size <= MAX_BYTES,
        "the graph takes {size} bytes, and an ONNX file holds at most {MAX_BYTES}"
    );
    Ok(message.encode_to_vec())
}

/// An ONNX file with more f32 values of its main graph as outputs. Protobuf merges what is
/// appended, so the rest of the file stays as it is, whoever wrote it.
pub fn with_outputs(mut file: Vec<u8>, names: &[String]) -> Vec<u8> {
    let output = names.iter().map(|name| tensor_value(name, DType::F32, None)).collect();
    let graph = GraphProto { output, ..Default::default() };
    file.extend(ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec());
    file
}

/// The byte ranges of files that a model reads.
pub fn graph_ranges(model: &Model, locate: Locate) -> Result<Vec<FileRange>> {
    let ranges = model.main.initializers.iter().map(|init| external(init, locate));
    ranges.filter_map(Result::transpose).collect()
}

/// The oldest IR version that has all that a model uses.
pub fn ir_version(model: &Model) -> i64 {
    let has_e8m0 = model.main.values.iter().any(|(_, fact)| fact.dtype == DType::F8E8M0);
    if has_e8m0 { IR_VERSION_OF_F8E8M0 } else { IR_VERSION }
}

/// Records in each node, those of nested bodies too, which part of the model it belongs to. Constants
/// belong to none.
fn name_parts(nodes: &mut [NodeProto], part_of: PartOf) {
    for node in nodes.iter_mut().filter(|it| it.op_type != CONSTANT) {
        node.metadata_props = vec![entry(PART, &part_of(&node.name))];
        let bodies = node.attribute.iter_mut().filter_map(|it| it.g.as_mut());
        bodies.for_each(|body| name_parts(&mut body.node, part_of));
    }
}

fn body(graph: &Graph, body: &Body, name: &str) -> GraphProto {
    let infos = |ids: &[ValueId]| ids.iter().map(|id| value_info(graph, *id)).collect();
    let inner = body.nodes.iter().flat_map(|node| &node.outputs);
    let inner: Vec<ValueId> = inner.copied().filter(|id| !body.outputs.contains(id)).collect();
    GraphProto {
        name: name.to_owned(),
        node: body.nodes.iter().map(|it| node(graph, it)).collect(),
        input: infos(&body.inputs),
        output: infos(&body.outputs),
        value_info: infos(&inner),
        initializer: Vec::new(),
    }
}

/// A function has no initializers: its constants are nodes that come first.
fn function(function: &Function) -> FunctionProto {
    let Function { name, attributes, graph } = function;
    let names = |ids: &[ValueId]| ids.iter().map(|id| graph.values[*id].0.clone()).collect();
    let constants = graph.initializers.iter().map(|init| constant(graph, init));
    let nodes = graph.body.nodes.iter().map(|it| node(graph, it));
    FunctionProto {
        name: name.clone(),
        domain: FUNCTIONS.to_owned(),
        input: names(&graph.body.inputs),
        output: names(&graph.body.outputs),
        attribute: attributes.iter().map(|name| (*name).to_owned()).collect(),
        node: constants.chain(nodes).collect(),
        opset_import: opsets([graph]),
        ..Default::default()
    }
}

/// The operator sets that some graphs use, ONNX's own first.
fn opsets<'g>(graphs: impl IntoIterator<Item = &'g Graph>) -> Vec<OperatorSetIdProto> {
    let used = graphs.into_iter().flat_map(|graph| &graph.domains);
    let domains: BTreeSet<&str> = used.copied().chain([ONNX]).collect();
    let set = |domain: &str| OperatorSetIdProto {
        domain: domain.to_owned(),
        version: if domain == ONNX { OPSET } else { 1 },
    };
    domains.into_iter().map(set).collect()
}

fn node(graph: &Graph, node: &Node) -> NodeProto {
    let name = |id: ValueId| graph.values[id].0.clone();
    let attribute = |(key, it): &(&str, Attribute)| attribute(graph, &node.name, key, it);
    NodeProto {
        name: node.name.clone(),
        domain: node.domain.to_owned(),
        op_type: node.op.clone(),
        input: node.inputs.iter().map(|id| id.map_or_else(String::new, name)).collect(),
        output: node.outputs.iter().copied().map(name).collect(),
        attribute: node.attributes.iter().map(attribute).collect(),
        metadata_props: Vec::new(),
    }
}

fn attribute(graph: &Graph, node: &str, name: &str, value: &Attribute) -> AttributeProto {
    let of = |kind: Type| AttributeProto {
        name: name.to_owned(),
        r#type: kind.into(),
        ..Default::default()
    };
    let int = |value: i64| AttributeProto { i: Some(value), ..of(Type::Int) };
    let reference =
        |name: &str, kind| AttributeProto { ref_attr_name: name.to_owned(), ..of(kind) };
    match value {
        Attribute::Int(number) => int(*number),
        Attribute::Dtype(dtype) => int(data_type(*dtype).into()),
        Attribute::Float(number) => AttributeProto { f: Some(*number), ..of(Type::Float) },
        Attribute::Text(text) => AttributeProto { s: Some((*text).into()), ..of(Type::String) },
        Attribute::Ints(numbers) => AttributeProto { ints: numbers.clone(), ..of(Type::Ints) },
        Attribute::Body(nested) => {
            let graph = body(graph, nested, &format!("{node}.{name}"));
            AttributeProto { g: Some(graph), ..of(Type::Graph) }
        }
        Attribute::IntRef(name) => reference(name, Type::Int),
        Attribute::FloatRef(name) => reference(name, Type::Float),
    }
}

fn initializer(graph: &Graph, initializer: &Initializer, locate: Locate) -> Result<TensorProto> {
    let (name, fact) = &graph.values[initializer.value];
    let size = |dim: &Dim| match initializer.data {
        Data::Empty => dim.known().unwrap_or(0),
        _ => dim.known().expect("a stored shape is known"),
    };
    let dims = fact.shape.iter().map(|dim| size(dim) as i64);
    let mut proto = TensorProto {
        name: name.clone(),
        dims: dims.collect(),
        data_type: data_type(fact.dtype),
        ..Default::default()
    };
    if let Data::Inline(bytes) = &initializer.data {
        proto.raw_data.clone_from(bytes);
    }
    if let Some(external) = external(initializer, locate)? {
        proto.set_data_location(DataLocation::External);
        proto.external_data = vec![
            entry("location", &external.file.to_string_lossy()),
            entry("offset", &external.range.start.to_string()),
            entry("length", &external.len().to_string()),
        ];
    }
    Ok(proto)
}

/// The byte range of an initializer whose bytes are not in the graph.
fn external(initializer: &Initializer, locate: Locate) -> Result<Option<FileRange>> {
    let Data::External { weight, range } = &initializer.data else { return Ok(None) };
    let FileRange { file, range: Range { start, .. } } = locate(weight)
        .ok_or_else(|| err!("weight `{weight}` is in no file (please report this)"))?;
    Ok(Some(FileRange { file, range: start + range.start..start + range.end }))
}

/// An initializer of a function as a node.
fn constant(graph: &Graph, constant: &Initializer) -> NodeProto {
    let tensor = initializer(graph, constant, &|_| None);
    let tensor = tensor.expect("weights belong to the main graph");
    let name = tensor.name.clone();
    let value = AttributeProto {
        name: "value".to_owned(),
        r#type: Type::Tensor.into(),
        t: Some(tensor),
        ..Default::default()
    };
    NodeProto {
        name: name.clone(),
        op_type: CONSTANT.to_owned(),
        output: vec![name],
        attribute: vec![value],
        ..Default::default()
    }
}

fn value_info(graph: &Graph, id: ValueId) -> ValueInfoProto {
    let (name, Fact { dtype, shape }) = &graph.values[id];
    let dim = |dim: &Dim| Dimension {
        value: Some(match dim.known() {
            Some(number) => dimension::Value::DimValue(number as i64),
            None => dimension::Value::DimParam(dim.to_string()),
        }),
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    tensor_value(name, *dtype, Some(shape))
}

fn tensor_value(name: &str, dtype: DType, shape: Option<TensorShapeProto>) -> ValueInfoProto {
    let tensor = Tensor { elem_type: data_type(dtype), shape };
    let value = Some(TypeValue::TensorType(tensor));
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { value }) }
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value: value.to_owned() }
}

pub(super) fn data_type(dtype: DType) -> i32 {
    DTYPES.iter().find(|(_, ours)| *ours == dtype).expect("every dtype is listed").0.into()
}

pub(super) fn from_data_type(number: i32) -> Option<DType> {
    DTYPES.iter().find(|(theirs, _)| i32::from(*theirs) == number).map(|(_, ours)| *ours)
}
