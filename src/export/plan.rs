//! Everything that an export decides before it writes, and the order of writing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::companions::Companions;
use super::open::Opened;
use super::placement::Placement;
use super::web::Page;
use super::{ExpertsSummary, MatricesSummary, ModelSummary, Origin, Request, Summary, onnx_file};
use crate::error::Error;
use crate::files::parent_dir;
use crate::graph::Model;
use crate::model;
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
    companions: Option<Companions>,
    page: Option<Page>,
}

impl<'p> Plan<'p> {
    /// Decides all that can be decided by headers.
    pub fn new(request: &'p Request, opened: &'p Opened) -> Result<Self, Error> {
        let checkpoint = &opened.checkpoint;
        let (mut graph, mut companions, mut page) = (None, None, None);
        if let Some(path) = &request.output {
            let (config, weights) = (&checkpoint.config, &checkpoint.weights);
            graph = Some((&**path, model::decoder(config, weights, request.options())?));
            companions = Companions::plan(request, path, opened)?;
        }
        let placement = Placement::decide(request, opened)?;
        if let Some(path) = &request.output {
            page = Page::plan(path, placement.files().count(), opened, request)?;
        }
        Ok(Self { request, opened, graph, placement, companions, page })
    }

    /// Files into whose folders something is written: with weights, the model, and what
    /// belongs to it elsewhere.
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        let model = self.graph.as_ref().map(|it| it.0);
        let page = self.page.as_ref().map(Page::config);
        self.placement.files().map(|(path, _)| path).chain(model).chain(page)
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
                    let write = |file: &_| store.write(file, path, progress).map_err(Error::from);
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
        if let Some(companions) = &self.companions {
            companions.write(transaction)?;
        }
        if let Some(page) = &self.page {
            page.write(transaction)?;
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
            genai: self.companions.map(Companions::summarise),
            transformers_js: self.page.map(Page::summarise),
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
