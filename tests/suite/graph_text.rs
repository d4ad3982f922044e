//! A graph as stable text, for snapshots and for people.

use std::fmt::{self, Display, Formatter};

use gpt_oss_export::graph::{Attribute, Body, Data, Graph, Model, Node, ValueId};

pub struct Text<'m>(pub &'m Model);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for function in &self.0.functions {
            writeln!(f, "function {} <{}>", function.name, function.attributes.join(", "))?;
            dump_graph(&function.graph, f)?;
            writeln!(f)?;
        }
        writeln!(f, "graph")?;
        dump_graph(&self.0.main, f)
    }
}

fn dump_graph(graph: &Graph, f: &mut Formatter<'_>) -> fmt::Result {
    for initializer in &graph.initializers {
        let value = typed_name(graph, initializer.value);
        match &initializer.data {
            Data::Inline(bytes) => writeln!(f, "  constant {value}, {} bytes", bytes.len())?,
            Data::Empty => writeln!(f, "  optional {value}")?,
            Data::External { weight, range } => {
                writeln!(f, "  weight {value} = {weight}[{}..{}]", range.start, range.end)?;
            }
        }
    }
    dump_body(graph, &graph.body, "  ", f)
}

fn dump_body(graph: &Graph, body: &Body, indent: &str, f: &mut Formatter<'_>) -> fmt::Result {
    for input in &body.inputs {
        writeln!(f, "{indent}input {}", typed_name(graph, *input))?;
    }
    body.nodes.iter().try_for_each(|node| dump_node(graph, node, indent, f))?;
    writeln!(f, "{indent}return {}", names(graph, body.outputs.iter().copied().map(Some)))
}

fn dump_node(graph: &Graph, node: &Node, indent: &str, f: &mut Formatter<'_>) -> fmt::Result {
    let outputs: Vec<String> = node.outputs.iter().map(|id| typed_name(graph, *id)).collect();
    let inputs = names(graph, node.inputs.iter().copied());
    write!(f, "{indent}{} = {}({inputs})", outputs.join(", "), node.op)?;
    let scalars: Vec<String> = node
        .attributes
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", scalar(value)?)))
        .collect();
    if !scalars.is_empty() {
        write!(f, " {{{}}}", scalars.join(", "))?;
    }
    writeln!(f)?;
    for (name, value) in &node.attributes {
        if let Attribute::Body(body) = value {
            writeln!(f, "{indent}  {name}:")?;
            dump_body(graph, body, &format!("{indent}    "), f)?;
        }
    }
    Ok(())
}

fn typed_name(graph: &Graph, id: ValueId) -> String {
    let (name, fact) = &graph.values[id];
    format!("{name}: {fact}")
}

fn names(graph: &Graph, ids: impl Iterator<Item = Option<ValueId>>) -> String {
    let names: Vec<&str> = ids.map(|id| id.map_or("", |id| &*graph.values[id].0)).collect();
    names.join(", ")
}

/// An attribute that fits on the node's line.
fn scalar(attribute: &Attribute) -> Option<String> {
    Some(match attribute {
        Attribute::Int(number) => number.to_string(),
        Attribute::Float(number) => format!("{number:?}"),
        Attribute::Text(text) => (*text).to_owned(),
        Attribute::Ints(numbers) => format!("{numbers:?}"),
        Attribute::Dtype(dtype) => dtype.to_string(),
        Attribute::IntRef(name) | Attribute::FloatRef(name) => format!("@{name}"),
        Attribute::Body(_) => return None,
    })
}
