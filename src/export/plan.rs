//! What an export decides before it writes, and the order of writing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::open::Opened;
use super::placement::Placement;
use super::spec::{ModelSpec, PackageSpec};
use super::{ExpertsSummary, MatricesSummary, ModelSummary, Source, Spec, Summary};
use crate::error::{Result, err};
use crate::files::parent_dir;
use crate::graph::{Data, Graph, Model};
use crate::metadata::{self, ModelMetadata, WeightSlice};
use crate::model::{self, GraphOptions, Target};
use crate::onnx;
use crate::package::{Package, PackagedModel, genai, transformers_js};
use crate::progress::Progress;
use crate::publish::{Existing, Transaction, check_disk_space};
use crate::tensor::Rounding;
use crate::weights::{PerRole, Provenance, Role};

/// What will be written.
pub struct Plan<'p> {
    spec: &'p Spec,
    opened: &'p Opened,
    graph: Option<Model>,
    placement: Placement<'p>,
    package: Package,
}

impl<'p> Plan<'p> {
    /// Decides everything that headers decide.
    pub fn new(spec: &'p Spec, opened: &'p Opened) -> Result<Self> {
        let checkpoint = &opened.checkpoint;
        let decoder =
            |it: &GraphOptions| model::decoder(&checkpoint.config, &checkpoint.weights, *it);
        let graph = spec.graph().map(decoder).transpose()?;
        let placement = Placement::decide(spec, opened)?;
        let package = match &spec.model {
            Some(ModelSpec { path, graph, package: Some(package), .. }) => {
                let model = PackagedModel {
                    path,
                    options: graph,
                    checkpoint,
                    checkpoint_dir: &opened.folder,
                };
                match *package {
                    PackageSpec::Genai { max_length } => genai::plan(&model, max_length)?,
                    PackageSpec::TransformersJs => {
                        transformers_js::plan(&model, placement.files.len())?
                    }
                }
            }
            _ => Package::default(),
        };
        Ok(Self { spec, opened, graph, placement, package })
    }

    /// The files that may be written: weights, the model, packages.
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        let weights = self.placement.files.iter().map(|(path, _)| path.as_path());
        let model = self.spec.model.iter().map(|model| &*model.path);
        weights.chain(model).chain(self.package.targets())
    }

    /// Writes the weights files that do not exist. Returns these, and what the conversions of
    /// all have rounded.
    pub fn write_weights(
        &self,
        transaction: &mut Transaction,
        progress: &dyn Progress,
    ) -> Result<(Vec<PathBuf>, PerRole<Rounding>)> {
        let files = self.placement.files.iter();
        let existing = files.clone().map(|(path, file)| file.check_existing(path, progress));
        let files: Vec<_> = files.zip(existing.collect::<Result<Vec<_>>>()?).collect();
        let absent = files.iter().filter(|(_, existing)| existing.is_none());
        check_disk_space(absent.map(|((path, file), _)| (&**path, file.bytes())))?;

        let (mut written, mut sum) = (Vec::new(), PerRole::default());
        for (at, ((path, file), existing)) in files.into_iter().enumerate() {
            let rounding = if let Some(rounding) = existing {
                rounding
            } else {
                written.push(path.clone());
                transaction
                    .create(path, Existing::Keep, |handle| file.write(handle, path, progress))?
            };
            // A staged file comes first and holds everything; a copy rounds the same again.
            if at == 0 || self.spec.request.save_weights.is_none() {
                Role::ALL.into_iter().for_each(|role| sum[role] += rounding[role]);
            }
        }
        Ok((written, sum))
    }

    /// Writes what belongs to the model, and last the model itself.
    pub fn write_model(
        &self,
        transaction: &mut Transaction,
        rounding: &PerRole<Rounding>,
    ) -> Result<Option<ModelSummary>> {
        self.package.write(transaction)?;
        let (Some(spec), Some(graph)) = (&self.spec.model, &self.graph) else { return Ok(None) };
        let provenances = self.opened.checkpoint.provenances.after(rounding);
        let bytes = self.encode(spec, graph, provenances, transaction).map_err(|error| {
            let kind = error.kind();
            err!("cannot write `{}`", spec.path.display()).with_kind(kind).with_source(error)
        })?;
        transaction.create_from(&spec.path, Existing::Replace, &bytes)?;
        Ok(Some(ModelSummary::new(spec, graph, bytes.len())))
    }

    /// The bytes of the ONNX file: the graph, where its weights are, and its metadata. They
    /// depend on the weights, the options and the paths of weights relative to the model; not
    /// on dates, folders or machines.
    fn encode(
        &self,
        spec: &ModelSpec,
        graph: &Model,
        provenances: PerRole<Provenance>,
        transaction: &Transaction,
    ) -> Result<Vec<u8>> {
        let operators = match spec.graph.target {
            Target::Onnx => "standard ONNX operators",
            Target::Ort => "ONNX Runtime's operators",
        };
        let description =
            format!("GPT-OSS in {operators}; weights are byte ranges of SafeTensors files.");
        let Opened { checkpoint, fingerprint, hub, .. } = self.opened;
        let locate = |weight: &str| self.placement.ranges.get(weight).cloned();
        let mut data = BTreeMap::new();
        if fingerprint.is_some() {
            let folder = parent_dir(&spec.path);
            let current_path = |file: &Path| transaction.current_path(&folder.join(file));
            let ranges = onnx::graph_ranges(graph, &locate)?;
            data = onnx::data_digests(ranges.into_iter(), current_path)?;
        }
        let probes = |kind: &str| {
            let these = graph.probes.iter().filter(|(other, _)| *other == kind);
            these.map(|(_, id)| graph.main.values[*id].0.clone()).collect()
        };
        let metadata = ModelMetadata {
            version: metadata::VERSION,
            requires: spec.graph.requires().to_owned(),
            fingerprint: fingerprint.clone(),
            source: hub.as_ref().map(|hub| hub.source.clone()),
            options: spec.graph,
            layers: checkpoint.config.num_layers(),
            provenances,
            residuals: probes(model::RESIDUALS),
            routers: probes(model::ROUTERS),
            slices: slices(&graph.main).collect(),
            data,
        };
        onnx::encode(graph, &description, &[(metadata::KEY, metadata.to_json())], &locate)
    }

    pub fn summarize(
        self,
        model: Option<ModelSummary>,
        written: Vec<PathBuf>,
        rounding: &PerRole<Rounding>,
        took: Duration,
    ) -> Summary {
        let Opened { checkpoint, fingerprint, folder, hub } = self.opened;
        let request = &self.spec.request;
        Summary {
            preset: request.preset,
            preset_changes: self.spec.preset_changes.clone(),
            layout: checkpoint.layout,
            layers: checkpoint.config.num_layers(),
            layers_there: checkpoint.layers_there,
            fingerprint: fingerprint.as_ref().map(ToString::to_string),
            hub: hub.clone(),
            source: match &request.source {
                Source::Staged(file) => file.clone(),
                _ => folder.clone(),
            },
            model,
            genai: self.package.genai,
            transformers_js: self.package.transformers_js,
            experts: ExpertsSummary::new(checkpoint, request.experts.is_some(), rounding),
            dense: MatricesSummary::new(checkpoint, Role::Dense, request.dense.is_some(), rounding),
            weights: self.placement.summarize(checkpoint, written),
            seconds: took.as_secs_f64(),
        }
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
