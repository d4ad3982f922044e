//! What an export decides before it writes, and the order of writing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::open::Opened;
use super::placement::Placement;
use super::spec::{ModelSpec, PackageSpec};
use super::{
    ExpertsSummary, GenaiSummary, MatricesSummary, ModelSummary, Source, Spec, Summary,
    TransformersJsSummary, onnx_file,
};
use crate::error::{Result, err};
use crate::files::parent_dir;
use crate::graph::Model;
use crate::model;
use crate::package::{Package, PackagedModel, genai, transformers_js};
use crate::progress::Progress;
use crate::publish::{Existing, Transaction, check_disk_space};
use crate::tensor::Rounding;
use crate::weights::{PerRole, Role};

/// What will be written.
pub struct Plan<'p> {
    spec: &'p Spec,
    opened: &'p Opened,
    graph: Option<Model>,
    placement: Placement<'p>,
    genai: Option<Package<GenaiSummary>>,
    transformers_js: Option<Package<TransformersJsSummary>>,
}

/// Weights files after writing.
pub struct WrittenWeights {
    pub new: Vec<PathBuf>,
    /// What their conversions rounded.
    pub rounding: PerRole<Rounding>,
}

impl<'p> Plan<'p> {
    /// Decides everything that headers decide.
    pub fn new(spec: &'p Spec, opened: &'p Opened) -> Result<Self> {
        let checkpoint = &opened.checkpoint;
        let graph = match spec.graph() {
            Some(options) => {
                Some(model::decoder(&checkpoint.config, &checkpoint.weights, *options)?)
            }
            None => None,
        };
        let placement = Placement::decide(spec, opened)?;
        let mut plan = Self { spec, opened, graph, placement, genai: None, transformers_js: None };
        if let Some(model) = &spec.model {
            plan.plan_package(model)?;
        }
        Ok(plan)
    }

    fn plan_package(&mut self, model: &ModelSpec) -> Result<()> {
        let checkpoint = &self.opened.checkpoint;
        let packaged = PackagedModel {
            path: &model.path,
            config: &checkpoint.config,
            options: &model.graph,
            checkpoint_layers: checkpoint.layers_there,
            checkpoint_dir: &self.opened.folder,
        };
        match model.package {
            Some(PackageSpec::Genai { max_length }) => {
                self.genai = Some(genai::plan(&packaged, max_length)?);
            }
            Some(PackageSpec::TransformersJs) => {
                let data_files = self.placement.files().count();
                self.transformers_js = Some(transformers_js::plan(&packaged, data_files)?);
            }
            None => {}
        }
        Ok(())
    }

    /// The files that may be written: weights, the model, packages.
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        let weights = self.placement.files().map(|(path, _)| path);
        let model = self.spec.model.iter().map(|model| &*model.path);
        let genai = self.genai.iter().flat_map(Package::targets);
        let transformers_js = self.transformers_js.iter().flat_map(Package::targets);
        weights.chain(model).chain(genai).chain(transformers_js)
    }

    /// Writes the weights files that do not exist.
    pub fn write_weights(
        &self,
        transaction: &mut Transaction,
        progress: &dyn Progress,
    ) -> Result<WrittenWeights> {
        let existing = self.placement.files().map(|(path, it)| it.check_existing(path, progress));
        let existing = existing.collect::<Result<Vec<_>>>()?;
        let files = || self.placement.files().zip(&existing);
        let absent = files().filter(|(_, existing)| existing.is_none());
        check_disk_space(absent.map(|((path, file), _)| (path, file.bytes())))?;

        let mut written = WrittenWeights { new: Vec::new(), rounding: PerRole::default() };
        for (at, ((path, file), existing)) in files().enumerate() {
            let rounding = if let Some(rounding) = existing {
                *rounding
            } else {
                written.new.push(path.to_owned());
                transaction
                    .create(path, Existing::Keep, |handle| file.write(handle, path, progress))?
            };
            // A staged file comes first and holds everything; a copy rounds the same again.
            if at == 0 || self.spec.save_weights.is_none() {
                Role::ALL.into_iter().for_each(|role| written.rounding[role] += rounding[role]);
            }
        }
        Ok(written)
    }

    /// Writes what belongs to the model, and last the model itself.
    pub fn write_model(
        &self,
        transaction: &mut Transaction,
        rounding: &PerRole<Rounding>,
    ) -> Result<Option<ModelSummary>> {
        if let Some(package) = &self.genai {
            package.write(transaction)?;
        }
        if let Some(package) = &self.transformers_js {
            package.write(transaction)?;
        }
        let (Some(spec), Some(graph)) = (&self.spec.model, &self.graph) else { return Ok(None) };
        let provenances = self.opened.checkpoint.provenances.after(rounding);
        let current_path =
            |file: &Path| transaction.current_path(&parent_dir(&spec.path).join(file));
        let bytes = onnx_file::encode(
            &spec.graph,
            self.opened,
            graph,
            &self.placement,
            &provenances,
            current_path,
        )
        .map_err(|error| err!("cannot write `{}`", spec.path.display()).with_source(error))?;
        transaction.create_from(&spec.path, Existing::Replace, &bytes)?;
        Ok(Some(ModelSummary::new(spec, graph, bytes.len())))
    }

    pub fn summarize(
        self,
        model: Option<ModelSummary>,
        weights: WrittenWeights,
        took: Duration,
    ) -> Summary {
        let Opened { checkpoint, fingerprint, folder, hub } = self.opened;
        let formats = &self.spec.formats;
        let rounding = &weights.rounding;
        Summary {
            preset: self.spec.preset.as_ref().map(|(preset, _)| *preset),
            preset_changes: self.spec.preset.iter().flat_map(|(_, set)| set.clone()).collect(),
            layout: checkpoint.layout,
            layers: checkpoint.config.num_layers(),
            layers_there: checkpoint.layers_there,
            fingerprint: fingerprint.as_ref().map(ToString::to_string),
            hub: hub.clone(),
            source: match &self.spec.source {
                Source::Staged(file) => file.clone(),
                _ => folder.clone(),
            },
            model,
            genai: self.genai.map(|package| package.summary),
            transformers_js: self.transformers_js.map(|package| package.summary),
            experts: ExpertsSummary::new(checkpoint, formats.experts.is_some(), rounding),
            dense: MatricesSummary::new(checkpoint, Role::Dense, formats.dense.is_some(), rounding),
            weights: self.placement.summarize(checkpoint, weights.new),
            seconds: took.as_secs_f64(),
        }
    }
}
