//! The ONNX file: the graph, where its weights are, and what it says of itself.

use std::path::{Path, PathBuf};

use super::Request;
use super::open::Opened;
use super::placement::Placement;
use crate::error::Error;
use crate::graph::Model;
use crate::model::{self, Target};
use crate::onnx;
use crate::publish;
use crate::weights::{PerRole, Provenance};

/// The file's bytes. They depend on the weights, the options and where weights are
/// relative to the model; not on dates, folders or machines. `path_now` says where a
/// file is that will be, or is, beside the model or below.
pub fn encode(
    request: &Request,
    output: &Path,
    (opened, graph): (&Opened, &Model),
    (placement, provenances): (&Placement, &PerRole<Provenance>),
    path_now: impl Fn(&str) -> PathBuf,
) -> Result<Vec<u8>, Error> {
    let operators = match request.graph.target {
        Target::Onnx => "standard ONNX operators",
        Target::Ort => "ONNX Runtime's operators",
    };
    let description =
        format!("GPT-OSS in {operators}; weights are byte ranges of SafeTensors files.");
    let properties = properties(request, opened, graph, provenances);
    let metadata = onnx::Metadata { description: &description, properties: &properties };
    let file = onnx::encode(graph, &metadata, &|weight| {
        placement.locate(weight).map(|it| crate::container::Location {
            file: it.file.to_string_lossy().into_owned(),
            range: it.range,
        })
    })?;
    if request.headers_only() {
        return Ok(file);
    }
    let described = onnx::describe(output, &file)?;
    let (key, value) = onnx::contents(&described, path_now).map_err(publish::Error::at(output))?;
    Ok(onnx::with_property(file, key, value))
}

/// What the ONNX file says of itself for programs.
fn properties(
    request: &Request,
    opened: &Opened,
    graph: &Model,
    provenances: &PerRole<Provenance>,
) -> Vec<(&'static str, String)> {
    let probes = |kind: &str| {
        let these = graph.probes.iter().filter(|(other, _)| *other == kind);
        let names: Vec<&str> = these.map(|(_, id)| graph.main.values[*id].0.as_str()).collect();
        names.join(" ")
    };
    let mut properties = vec![
        ("gpt_oss_export.options", request.options().to_string()),
        ("gpt_oss_export.requires", request.options().requires().to_owned()),
        ("gpt_oss_export.layers", opened.checkpoint.config.num_layers().to_string()),
        ("gpt_oss_export.experts", canonical(&provenances.experts)),
        ("gpt_oss_export.dense", canonical(&provenances.dense)),
        ("gpt_oss_export.residuals", probes(model::RESIDUALS)),
        ("gpt_oss_export.routers", probes(model::ROUTERS)),
    ];
    if let Some(fingerprint) = &opened.fingerprint {
        properties.insert(0, ("gpt_oss_export.fingerprint", fingerprint.to_string()));
    }
    if let Some(hub) = &opened.hub {
        properties.push(("gpt_oss_export.source", hub.source.clone()));
    }
    properties
}

fn canonical(provenance: &Provenance) -> String {
    serde_json::to_string(provenance).expect("plain data")
}
