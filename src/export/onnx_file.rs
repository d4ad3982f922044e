//! The ONNX file: the graph, where its weights are, and its metadata.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::open::Opened;
use super::placement::Placement;
use crate::error::Result;
use crate::graph::{Data, Graph, Model};
use crate::metadata::{self, ModelMetadata, WeightSlice};
use crate::model::{self, GraphOptions, Target};
use crate::onnx;
use crate::weights::{PerRole, Provenance};

/// The bytes of the file. They depend on the weights, the options and the paths of weights
/// relative to the model; not on dates, folders or machines. `current_path` says where a
/// file is now that will be, or is, beside the model or below.
pub fn encode(
    options: &GraphOptions,
    opened: &Opened,
    graph: &Model,
    placement: &Placement,
    provenances: PerRole<Provenance>,
    current_path: impl Fn(&Path) -> PathBuf,
) -> Result<Vec<u8>> {
    let operators = match options.target {
        Target::Onnx => "standard ONNX operators",
        Target::Ort => "ONNX Runtime's operators",
    };
    let description =
        format!("GPT-OSS in {operators}; weights are byte ranges of SafeTensors files.");
    let locate = |weight: &str| placement.ranges.get(weight).cloned();
    let data = if opened.fingerprint.is_some() {
        onnx::data_digests(onnx::graph_ranges(graph, &locate)?.into_iter(), current_path)?
    } else {
        BTreeMap::new()
    };
    let probes = |kind: &str| {
        let these = graph.probes.iter().filter(|(other, _)| *other == kind);
        these.map(|(_, id)| graph.main.values[*id].0.clone()).collect()
    };
    let metadata = ModelMetadata {
        version: metadata::VERSION,
        requires: options.requires().to_owned(),
        fingerprint: opened.fingerprint.clone(),
        source: opened.hub.as_ref().map(|hub| hub.source.clone()),
        options: *options,
        layers: opened.checkpoint.config.num_layers(),
        provenances,
        residuals: probes(model::RESIDUALS),
        routers: probes(model::ROUTERS),
        slices: slices(&graph.main).collect(),
        data,
    };
    onnx::encode(graph, &description, &[(metadata::KEY, metadata.to_json())], &locate)
}

/// Initializers whose name is not that of a weight: they hold some of its bytes.
fn slices(graph: &Graph) -> impl Iterator<Item = (String, WeightSlice)> {
    graph.initializers.iter().filter_map(|initializer| {
        let Data::External { weight, range } = &initializer.data else { return None };
        let name = &graph.values[initializer.value].0;
        let slice = WeightSlice { weight: weight.clone(), bytes: range.clone() };
        (name != weight).then(|| (name.clone(), slice))
    })
}
