//! Graph to messages, one function for each kind of message.

use std::collections::BTreeSet;

use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataLocation;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::type_proto::{Tensor, Value as TypeValue};
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};
use super::{Error, Metadata, OPSET, data_type, ir_version};
use crate::files::FileRange;
use crate::graph::{
    Attribute, Body, Data, Dim, FUNCTIONS, Fact, Function, Graph, Initializer, Model, Node, ONNX,
    ValueId,
};
use crate::tensor::DType;

type Locate<'l> = &'l dyn Fn(&str) -> Option<FileRange>;

pub fn model(model: &Model, metadata: &Metadata, locate: Locate) -> Result<ModelProto, Error> {
    let functions = model.functions.iter().map(|function| &function.graph.body);
    Ok(ModelProto {
        ir_version: ir_version(model),
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: metadata.description.to_owned(),
        graph: Some(main(&model.main, locate)?),
        opset_import: opsets(functions.chain([&model.main.body])),
        metadata_props: metadata.properties.iter().map(|(key, value)| entry(key, value)).collect(),
        functions: model.functions.iter().map(function).collect(),
    })
}

/// What a model must have besides, to give values as f32 of any shape.
pub fn outputs(names: &[String]) -> ModelProto {
    let tensor = Tensor { elem_type: data_type(DType::F32), shape: None };
    let output = |name: &String| ValueInfoProto {
        name: name.clone(),
        r#type: Some(TypeProto { value: Some(TypeValue::TensorType(tensor.clone())) }),
    };
    let graph = GraphProto { output: names.iter().map(output).collect(), ..Default::default() };
    ModelProto { graph: Some(graph), ..Default::default() }
}

/// What a model must have besides, to say one thing more of itself.
pub fn property(key: &str, value: String) -> ModelProto {
    ModelProto { metadata_props: vec![entry(key, &value)], ..Default::default() }
}

/// The main graph: its initializers are there once, its values typed.
fn main(graph: &Graph, locate: Locate) -> Result<GraphProto, Error> {
    let initializers = graph.initializers.iter().map(|init| initializer(graph, init, locate));
    let initializer = initializers.collect::<Result<_, _>>()?;
    Ok(GraphProto { initializer, ..body(graph, &graph.body, "gpt_oss") })
}

/// Nodes with typed inputs, outputs and values between.
fn body(graph: &Graph, body: &Body, name: &str) -> GraphProto {
    let infos = |ids: &[ValueId]| ids.iter().map(|id| value_info(graph, *id)).collect();
    let inner = body.nodes.iter().flat_map(|node| &node.outputs);
    let inner: Vec<ValueId> = inner.copied().filter(|id| !body.outputs.contains(id)).collect();
    GraphProto {
        name: name.to_owned(),
        node: body.nodes.iter().map(|item| node(graph, item)).collect(),
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
    let nodes = graph.body.nodes.iter().map(|item| node(graph, item));
    FunctionProto {
        name: name.clone(),
        domain: FUNCTIONS.to_owned(),
        input: names(&graph.body.inputs),
        output: names(&graph.body.outputs),
        attribute: attributes.iter().map(|name| (*name).to_owned()).collect(),
        node: constants.chain(nodes).collect(),
        opset_import: opsets([&graph.body]),
        ..Default::default()
    }
}

/// The operator sets that some bodies use, ONNX's own first.
fn opsets<'b>(bodies: impl IntoIterator<Item = &'b Body>) -> Vec<OperatorSetIdProto> {
    let mut domains = BTreeSet::from([ONNX]);
    bodies.into_iter().for_each(|body| collect_domains(body, &mut domains));
    let set = |domain: &str| OperatorSetIdProto {
        domain: domain.to_owned(),
        version: if domain == ONNX { OPSET } else { 1 },
    };
    domains.into_iter().map(set).collect()
}

fn collect_domains(body: &Body, domains: &mut BTreeSet<&'static str>) {
    for node in &body.nodes {
        domains.insert(node.domain);
        for (_, attribute) in &node.attributes {
            if let Attribute::Body(nested) = attribute {
                collect_domains(nested, domains);
            }
        }
    }
}

fn node(graph: &Graph, node: &Node) -> NodeProto {
    let name = |id: ValueId| graph.values[id].0.clone();
    NodeProto {
        name: node.name.clone(),
        domain: node.domain.to_owned(),
        op_type: node.op.clone(),
        input: node.inputs.iter().map(|id| id.map_or_else(String::new, name)).collect(),
        output: node.outputs.iter().copied().map(name).collect(),
        attribute: node
            .attributes
            .iter()
            .map(|(key, value)| attribute(graph, &node.name, key, value))
            .collect(),
    }
}

fn attribute(graph: &Graph, node: &str, name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_owned(), ..Default::default() };
    let kind = match value {
        Attribute::Int(number) => {
            proto.i = Some(*number);
            AttributeType::Int
        }
        Attribute::Float(number) => {
            proto.f = Some(*number);
            AttributeType::Float
        }
        Attribute::Text(text) => {
            proto.s = Some(text.as_bytes().to_vec());
            AttributeType::String
        }
        Attribute::Ints(numbers) => {
            proto.ints = numbers.clone();
            AttributeType::Ints
        }
        Attribute::Dtype(dtype) => {
            proto.i = Some(i64::from(data_type(*dtype)));
            AttributeType::Int
        }
        Attribute::Body(nested) => {
            proto.g = Some(body(graph, nested, &format!("{node}.{name}")));
            AttributeType::Graph
        }
        Attribute::CallersInt(callers) => {
            proto.ref_attr_name = (*callers).to_owned();
            AttributeType::Int
        }
        Attribute::CallersFloat(callers) => {
            proto.ref_attr_name = (*callers).to_owned();
            AttributeType::Float
        }
    };
    proto.set_type(kind);
    proto
}

fn initializer(
    graph: &Graph,
    initializer: &Initializer,
    locate: Locate,
) -> Result<TensorProto, Error> {
    let mut proto = tensor(graph, initializer.value);
    match &initializer.data {
        Data::Inline(bytes) => proto.raw_data = bytes.clone(),
        Data::External { weight, range } => {
            let FileRange { file, range: whole } =
                locate(weight).ok_or_else(|| Error::Unplaced(weight.clone()))?;
            proto.set_data_location(DataLocation::External);
            proto.external_data = vec![
                entry("location", &file.to_string_lossy()),
                entry("offset", &(whole.start + range.start).to_string()),
                entry("length", &(range.end - range.start).to_string()),
            ];
        }
    }
    Ok(proto)
}

fn constant(graph: &Graph, initializer: &Initializer) -> NodeProto {
    let name = graph.values[initializer.value].0.clone();
    let Data::Inline(bytes) = &initializer.data else {
        unreachable!("weights belong to the main graph")
    };
    let mut value = AttributeProto { name: "value".to_owned(), ..Default::default() };
    value.t = Some(TensorProto { raw_data: bytes.clone(), ..tensor(graph, initializer.value) });
    value.set_type(AttributeType::Tensor);
    NodeProto {
        name: name.clone(),
        op_type: "Constant".to_owned(),
        output: vec![name],
        attribute: vec![value],
        ..Default::default()
    }
}

/// A tensor without its bytes.
fn tensor(graph: &Graph, id: ValueId) -> TensorProto {
    let (name, fact) = &graph.values[id];
    let dims =
        fact.shape.iter().map(|dim| dim.known().expect("a stored tensor's shape is known") as i64);
    TensorProto {
        name: name.clone(),
        dims: dims.collect(),
        data_type: data_type(fact.dtype),
        ..Default::default()
    }
}

fn value_info(graph: &Graph, id: ValueId) -> ValueInfoProto {
    let (name, fact) = &graph.values[id];
    ValueInfoProto { name: name.clone(), r#type: Some(type_of(fact)) }
}

fn type_of(fact: &Fact) -> TypeProto {
    let dim = |dim: &Dim| {
        let value = match dim.known() {
            Some(number) => dimension::Value::DimValue(number as i64),
            None => dimension::Value::DimParam(dim.to_string()),
        };
        Dimension { value: Some(value) }
    };
    let shape = TensorShapeProto { dim: fact.shape.iter().map(dim).collect() };
    let tensor = Tensor { elem_type: data_type(fact.dtype), shape: Some(shape) };
    TypeProto { value: Some(TypeValue::TensorType(tensor)) }
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value: value.to_owned() }
}
