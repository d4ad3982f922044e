//! The graph as text: stable, for snapshots and for people.

use std::fmt::{self, Display, Formatter};

use super::{Attribute, Body, Data, Function, Graph, Model, Node, ValueId};

impl Display for Model {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for function in &self.functions {
            writeln!(f, "{function}")?;
        }
        writeln!(f, "graph")?;
        dump_graph(&self.main, f)
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "function {} <{}>", self.name, self.attributes.join(", "))?;
        dump_graph(&self.graph, f)
    }
}

fn dump_graph(graph: &Graph, f: &mut Formatter<'_>) -> fmt::Result {
    for initializer in &graph.initializers {
        let (name, fact) = &graph.values[initializer.value];
        match &initializer.data {
            Data::Inline(bytes) => writeln!(f, "  constant {name}: {fact}, {} bytes", bytes.len())?,
            Data::External { weight, range } => {
                writeln!(f, "  weight {name}: {fact} = {weight}[{}..{}]", range.start, range.end)?;
            }
        }
    }
    dump_body(graph, &graph.body, "  ", f)
}

fn dump_body(graph: &Graph, body: &Body, indent: &str, f: &mut Formatter<'_>) -> fmt::Result {
    for input in &body.inputs {
        let (name, fact) = &graph.values[*input];
        writeln!(f, "{indent}input {name}: {fact}")?;
    }
    for node in &body.nodes {
        dump_node(graph, node, indent, f)?;
    }
    writeln!(f, "{indent}return {}", names(graph, body.outputs.iter().copied().map(Some)))
}

fn dump_node(graph: &Graph, node: &Node, indent: &str, f: &mut Formatter<'_>) -> fmt::Result {
    let outputs: Vec<String> = node
        .outputs
        .iter()
        .map(|id| {
            let (name, fact) = &graph.values[*id];
            format!("{name}: {fact}")
        })
        .collect();
    let scalars: Vec<String> = node
        .attributes
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", text(value)?)))
        .collect();
    let scalars =
        if scalars.is_empty() { String::new() } else { format!(" {{{}}}", scalars.join(", ")) };
    let inputs = names(graph, node.inputs.iter().copied());
    writeln!(f, "{indent}{} = {}({inputs}){scalars}", outputs.join(", "), node.op)?;
    for (name, value) in &node.attributes {
        if let Attribute::Body(body) = value {
            writeln!(f, "{indent}  {name}:")?;
            dump_body(graph, body, &format!("{indent}    "), f)?;
        }
    }
    Ok(())
}

fn names(graph: &Graph, ids: impl Iterator<Item = Option<ValueId>>) -> String {
    let names: Vec<&str> = ids.map(|id| id.map_or("", |id| &*graph.values[id].0)).collect();
    names.join(", ")
}

/// An attribute that fits on the node's line.
fn text(attribute: &Attribute) -> Option<String> {
    Some(match attribute {
        Attribute::Int(number) => number.to_string(),
        Attribute::Float(number) => format!("{number:?}"),
        Attribute::Text(text) => (*text).to_owned(),
        Attribute::Ints(numbers) => format!("{numbers:?}"),
        Attribute::Dtype(dtype) => dtype.to_string(),
        Attribute::CallersInt(name) | Attribute::CallersFloat(name) => format!("@{name}"),
        Attribute::Body(_) => return None,
    })
}
