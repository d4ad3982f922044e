//! The model of an export: its graph, its package, and its ONNX file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::open::Opened;
use super::outputs::PartFile;
use super::{ModelSummary, PartSummary, Request, Spec};
use crate::adapter::AdaptedModules;
use crate::checkpoint::Checkpoint;
use crate::error::{Result, err};
use crate::exported::metadata::{self, ModelMetadata, WeightSlice};
use crate::files::{FileRange, parent_dir};
use crate::graph::{Data, Graph, Model};
use crate::model::{self, GraphOptions, SlidingCache, Target};
use crate::onnx::{self, ValueInfo};
use crate::package::{Package, PackagedModel, genai, transformers_js};
use crate::publish::{Existing, Transaction};
use crate::tensor::Rounding;
use crate::weights::PerRole;

/// A model of which the graph is built, and nothing written.
pub struct PlannedModel<'p> {
    output: &'p PartFile,
    options: GraphOptions,
    opened: &'p Opened,
    graph: Model,
}

impl<'p> PlannedModel<'p> {
    /// Builds the graph.
    pub fn new(spec: &Spec, opened: &'p Opened, output: &'p PartFile) -> Result<Self> {
        let Spec { request, .. } = spec;
        let mut options = *spec.graph().expect("graphs are written");
        let Checkpoint { config, weights, .. } = &opened.checkpoint;
        let can_measure =
            !request.transformers_js || transformers_js::can_measure(config, &options);
        if request.sliding_cache.is_none() && !can_measure {
            options.sliding_cache = SlidingCache::Full;
        }
        let graph = model::decoder(config, weights, &output.part, options)?;
        Ok(Self { output, options, opened, graph })
    }

    pub fn path(&self) -> &'p PathBuf {
        &self.output.path
    }

    /// Plans what a runtime needs beside the model and its data files.
    pub fn package(&self, request: &Request, data_files: usize) -> Result<Package> {
        let Self { options, opened, .. } = self;
        let path = self.path();
        let model = PackagedModel {
            path,
            options,
            checkpoint: &opened.checkpoint,
            checkpoint_dir: &opened.folder,
            adapter_dirs: request
                .adapters
                .iter()
                .map(|it| parent_dir(&it.source.weights()).to_owned())
                .collect(),
            replaces_bf16: opened.replaces_bf16,
        };
        if request.genai {
            let former = onnx::read(path).and_then(|it| ModelMetadata::read(&it.properties));
            let written = former.ok().flatten().and_then(|it| it.genai_config);
            genai::plan(&model, request.max_length, request.speculative, written.as_deref())
        } else if request.transformers_js {
            transformers_js::plan(&model, data_files)
        } else {
            Ok(Package { outdated: Vec::from_iter(genai::outdated(path)), ..Package::default() })
        }
    }

    /// Writes the ONNX file of a model that reads its weights in these ranges, after their
    /// conversions have rounded so much, beside a package.
    pub fn write(
        &self,
        ranges: &HashMap<String, FileRange>,
        rounding: &PerRole<Rounding>,
        package: &Package,
        transaction: &mut Transaction,
    ) -> Result<ModelSummary> {
        let Self { output: PartFile { path, part }, options, graph, opened } = self;
        let (Model { main, functions, .. }, checkpoint) = (graph, &opened.checkpoint);
        let bytes = self.encode(ranges, rounding, package, transaction).map_err(|error| {
            let kind = error.kind();
            err!("cannot write `{}`", path.display()).with_kind(kind).with_source(error)
        })?;
        transaction.create_from(path, Existing::Replace, &bytes)?;
        let value_info = |id: &usize| ValueInfo::new(&main.values[*id].0, &main.values[*id].1);
        Ok(ModelSummary {
            path: path.clone(),
            part: (!part.is_whole()).then(|| PartSummary::new(part, &checkpoint.weights, ranges)),
            bytes: bytes.len(),
            ir_version: onnx::ir_version(graph),
            opset: onnx::OPSET,
            requires: options.requires(),
            rounding: options.rounding(&checkpoint.provenances.formats()),
            options: *options,
            slowed_layers: model::layers_slowed_by_adapters(&checkpoint.weights, part, options),
            limited_caches: model::limited_caches(&checkpoint.config, part, options),
            swappable: AdaptedModules::swappable(
                checkpoint.weights.slots().filter(|slot| part.has(&slot.matrix)),
            ),
            nodes: main.body.nodes.len(),
            functions: functions.iter().map(|function| function.name.clone()).collect(),
            inputs: main.body.inputs.iter().map(value_info).collect(),
            outputs: main.body.outputs.iter().map(value_info).collect(),
        })
    }

    /// The bytes of the ONNX file: the graph, where its weights are, and its metadata. They
    /// depend on the weights, the options and the paths of weights relative to the model; not
    /// on dates, folders or machines.
    fn encode(
        &self,
        ranges: &HashMap<String, FileRange>,
        rounding: &PerRole<Rounding>,
        package: &Package,
        transaction: &Transaction,
    ) -> Result<Vec<u8>> {
        let Self { output: PartFile { path, part }, options, opened, graph } = self;
        let Opened { checkpoint, base, fingerprint, hub, .. } = opened;
        let operators = match options.target {
            Target::Onnx => "standard ONNX operators",
            Target::Ort => "ONNX Runtime's operators",
        };
        let description =
            format!("GPT-OSS in {operators}; weights are byte ranges of SafeTensors files.");
        let locate = |weight: &str| ranges.get(weight).cloned();
        let mut data = BTreeMap::new();
        if opened.is_local {
            let current_path = |file: &Path| transaction.current_path(&parent_dir(path).join(file));
            let read = onnx::graph_ranges(graph, &locate)?;
            data = onnx::data_digests(&read, current_path)?;
        }
        let probes = |kind: &str| {
            let these = graph.probes.iter().filter(|(other, _)| *other == kind);
            these.map(|(_, id)| graph.main.values[*id].0.clone()).collect()
        };
        let metadata = ModelMetadata {
            version: metadata::VERSION,
            requires: options.requires().to_owned(),
            fingerprint: fingerprint.clone(),
            source: hub.as_ref().map(|hub| hub.source.clone()),
            adapters: opened.adapter_records(),
            config: checkpoint.weights.slots().next().map(|_| base.clone()),
            ignored: checkpoint.ignored.clone(),
            options: *options,
            layers: part.all_layers,
            stage: (!part.is_whole()).then(|| part.clone()),
            context: Some(checkpoint.config.rope.context()),
            limited_caches: model::limited_caches(&checkpoint.config, part, options),
            provenances: checkpoint.provenances.after(rounding),
            residuals: probes(model::RESIDUALS),
            routers: probes(model::ROUTERS),
            slices: slices(&graph.main).collect(),
            data,
            genai_config: package.genai_digest(),
        };
        let properties = [(metadata::KEY, metadata.to_json())];
        onnx::encode(graph, &description, &properties, &locate, model::part_of)
    }
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
