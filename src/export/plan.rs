//! Everything that an export decides before it writes, and the order of writing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::open::Opened;
use super::placement::Placement;
use super::{
    ExpertsSummary, Genai, MatricesSummary, ModelSummary, Origin, Request, Summary, onnx_file,
};
use crate::error::Error;
use crate::files::parent_dir;
use crate::graph::Model;
use crate::model;
use crate::package::{GenaiSummary, Package, PackagedModel, TransformersJsSummary};
use crate::package::{genai, transformers_js};
use crate::progress::Progress;
use crate::publish::{Existing, Transaction, check_room};
use crate::tensor::Rounding;
use crate::weights::{PerRole, Role};

/// What will be written.
pub struct Plan<'p> {
    request: &'p Request,
    opened: &'p Opened,
    /// The graph and its file, if one is asked for.
    graph: Option<(&'p Path, Model)>,
    placement: Placement<'p>,
    genai: Option<Package<GenaiSummary>>,
    transformers_js: Option<Package<TransformersJsSummary>>,
}

impl<'p> Plan<'p> {
    /// Decides all that can be decided by headers.
    pub fn new(request: &'p Request, opened: &'p Opened) -> Result<Self, Error> {
        let (checkpoint, options) = (&opened.checkpoint, request.options());
        let (mut graph, mut genai, mut transformers_js) = (None, None, None);
        if let Some(path) = request.output.as_deref() {
            let (config, weights) = (&checkpoint.config, &checkpoint.weights);
            graph = Some((path, model::decoder(config, weights, options)?));
        }
        let placement = Placement::decide(request, opened)?;
        if let Some(path) = request.output.as_deref() {
            let model = PackagedModel {
                path,
                config: &checkpoint.config,
                options: &options,
                checkpoint_layers: checkpoint.layers_there,
                checkpoint_dir: &opened.folder,
            };
            if let Some(Genai { max_length }) = request.genai {
                genai = Some(genai::plan(&model, max_length)?);
            }
            if request.transformers_js {
                let data_files = placement.files().count();
                transformers_js = Some(transformers_js::plan(&model, data_files)?);
            }
        }
        Ok(Self { request, opened, graph, placement, genai, transformers_js })
    }

    /// The files that may be written: weights, the model, packages.
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        let model = self.graph.as_ref().map(|it| it.0);
        let weights = self.placement.files().map(|(path, _)| path);
        let genai = self.genai.iter().flat_map(Package::targets);
        let transformers_js = self.transformers_js.iter().flat_map(Package::targets);
        weights.chain(model).chain(genai).chain(transformers_js)
    }

    /// Writes the files with weights that are not there yet: which they are, and what
    /// was rounded in all of them.
    pub fn write_weights(
        &self,
        transaction: &mut Transaction,
        progress: &dyn Progress,
    ) -> Result<(Vec<PathBuf>, PerRole<Rounding>), Error> {
        let stores = self.placement.files();
        let found: Result<Vec<_>, Error> =
            stores.map(|(path, store)| store.check_existing(path, progress)).collect();
        let found = found?;
        let files = || self.placement.files().zip(&found);
        let absent = files().filter(|(_, found)| found.is_none());
        check_room(absent.map(|((path, store), _)| (path, store.bytes())))?;

        let (mut written, mut roundings) = (Vec::new(), PerRole::<Rounding>::default());
        for ((path, store), found) in files() {
            let here = match found {
                Some(rounding) => *rounding,
                None => {
                    written.push(path.to_owned());
                    let write = |file: &_| store.write(file, path, progress);
                    transaction.create(path, Existing::Keep, write)?
                }
            };
            // A staged file holds everything, and comes first; what is beside the model
            // is the same again.
            match self.request.save_weights.is_some() {
                true if roundings == PerRole::default() => roundings = here,
                true => {}
                false => roundings += here,
            }
        }
        Ok((written, roundings))
    }

    /// Writes what belongs to the model, and last the model itself.
    pub fn write_rest(
        &self,
        transaction: &mut Transaction,
        roundings: &PerRole<Rounding>,
    ) -> Result<Option<ModelSummary>, Error> {
        if let Some(package) = &self.genai {
            package.write(transaction)?;
        }
        if let Some(package) = &self.transformers_js {
            package.write(transaction)?;
        }
        let Some((path, graph)) = &self.graph else { return Ok(None) };
        let provenances = self.opened.checkpoint.provenances.after(roundings);
        let path_now = |file: &Path| transaction.path_now(&parent_dir(path).join(file));
        let model = (self.opened, graph);
        let weights = (&self.placement, &provenances);
        let bytes = onnx_file::encode(self.request, model, weights, path_now)?;
        transaction.create_from(path, Existing::Replace, &bytes)?;
        Ok(Some(ModelSummary::new(path, graph, bytes.len(), &self.request.options())))
    }

    /// What was done.
    pub fn summarise(
        self,
        model: Option<ModelSummary>,
        written: Vec<PathBuf>,
        roundings: &PerRole<Rounding>,
        took: Duration,
    ) -> Summary {
        let Opened { checkpoint, fingerprint, folder, hub } = self.opened;
        let formats = &self.request.formats;
        Summary {
            layout: checkpoint.layout,
            layers: checkpoint.config.num_layers(),
            layers_there: checkpoint.layers_there,
            fingerprint: fingerprint.as_ref().map(ToString::to_string),
            hub: hub.clone(),
            source: match &self.request.origin {
                Origin::Weights(file) => file.clone(),
                _ => folder.clone(),
            },
            model,
            genai: self.genai.map(|package| package.summary),
            transformers_js: self.transformers_js.map(|package| package.summary),
            experts: ExpertsSummary::new(checkpoint, formats.experts.is_some(), roundings),
            dense: MatricesSummary::new(
                checkpoint.weights.matrices(Role::Dense),
                &checkpoint.provenances.dense,
                formats.dense.is_some(),
                &roundings.dense,
            ),
            weights: self.placement.summarize(checkpoint, written),
            seconds: took.as_secs_f64(),
        }
    }
}
