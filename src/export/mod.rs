//! The pipeline: open, identify, build the graph, place the weights, publish.

mod adapters;
mod example;
mod open;
mod outputs;
mod placement;
mod planned_adapter;
mod planned_model;
mod readers;
mod request;
mod spec;
mod summary;
mod swappable;
mod text;

use std::path::Path;
use std::time::Instant;

pub use request::{
    AdapterAs, Cut, ExternalData, HubSource, Preset, Request, RequestedAdapter, Source,
};
pub use spec::Spec;
pub use summary::{
    AdapterSummary, Converted, ExpertsSummary, HubSummary, MatricesSummary, ModelSummary,
    PartSummary, Summary, WeightsSummary,
};
pub use swappable::{AdapterRequest, export_adapter};

pub use crate::adapter::{AdapterSource, FactorOrder, ModuleGroup};
pub use crate::checkpoint::{IgnoredNames, did_you_mean, similar_dir};
pub use crate::hub::RepoPath;
pub use crate::model::{GraphOptions, Provider, SlidingCache, Target};
pub use crate::onnx::ValueInfo;
pub use crate::package::{GenaiSummary, TransformersJsSummary};
pub use crate::tensor::DType;
pub use crate::tensor::ints::Bits;
pub use crate::weights::MatrixFormat;

use crate::error::Result;
use crate::progress::Progress;
use crate::publish::Transaction;
use crate::weights::{Matrix, Role};
use open::{Opened, open};
use placement::Placement;
use planned_adapter::PlannedAdapter;
use planned_model::PlannedModel;

/// Runs an export. If it fails, the destination is as it was before.
pub fn export(spec: &Spec, progress: &dyn Progress) -> Result<Summary> {
    let started = Instant::now();
    let Spec { request, .. } = spec;
    let opened = open(spec, progress)?;
    opened.refuse_targets(request)?;
    let Opened { checkpoint, folder, hub, adapters, adapter_files, .. } = &opened;

    // Everything that headers decide is decided before anything is written.
    let models = opened.outputs.iter().map(|output| PlannedModel::new(spec, &opened, output));
    let models = models.collect::<Result<Vec<_>>>()?;
    let mut placement = Placement::decide(request, &opened)?;
    // A package has a whole model.
    let package = models.first().map(|model| model.package(request, placement.files.len()));
    let package = package.transpose()?.unwrap_or_default();

    let mut transaction = Transaction::default();
    let weights = placement.files.iter().map(|(path, _)| path);
    let beside: Vec<(&Path, u64)> = adapter_files.iter().map(PlannedAdapter::file).collect();
    let targets = weights.chain(models.iter().map(PlannedModel::path)).map(|path| &**path);
    let targets = targets.chain(package.targets()).chain(beside.iter().map(|(path, _)| *path));
    for path in targets {
        transaction.claim(path)?;
    }
    let rounding = placement.write(&beside, &mut transaction, progress)?;
    package.write(&mut transaction)?;
    adapter_files.iter().try_for_each(|it| it.write(&mut transaction, progress))?;
    // Last, so that a model never appears without its weights.
    let written = models
        .iter()
        .zip(&placement.ranges)
        .map(|(model, ranges)| model.write(ranges, &rounding, &package, &mut transaction));
    let models = written.collect::<Result<Vec<_>>>()?;
    progress.check_cancelled()?;
    transaction.commit()?;
    placement.summary.unread =
        request.output.as_deref().map(readers::unread_weights).unwrap_or_default();

    let matrices = |role| {
        let asked = if role == Role::Experts { request.experts } else { request.dense };
        let read: Vec<_> = opened.matrices(role).collect();
        let provenance = &checkpoint.provenances[role];
        MatricesSummary::new(&read, provenance, asked.is_some(), &rounding[role])
    };
    let fit_mxfp4 = opened.matrices(Role::Experts).all(Matrix::fills_blocks);
    let (stages, model): (Vec<_>, Vec<_>) =
        models.into_iter().partition(|it| it.part.as_ref().is_some_and(PartSummary::is_stage));
    let model = model.into_iter().next();
    Ok(Summary {
        preset: request.preset,
        preset_changes: spec.preset_changes.clone(),
        layout: checkpoint.layout.clone(),
        notes: checkpoint.notes.clone(),
        layers: checkpoint.config.num_layers(),
        layers_there: checkpoint.layers_there,
        ignored: checkpoint.ignored.clone(),
        fingerprint: opened.fingerprint.as_ref().map(ToString::to_string),
        zeros: opened.zeros.clone(),
        hub: hub.clone(),
        adapters: adapters.clone(),
        adapter_records: opened.adapter_records(),
        source: match &request.source {
            Source::Staged(file) => file.clone(),
            _ => folder.clone(),
        },
        model,
        stages,
        genai: package.genai,
        transformers_js: package.transformers_js,
        outdated: package.outdated,
        experts: ExpertsSummary::new(&checkpoint.config, matrices(Role::Experts), fit_mxfp4),
        dense: matrices(Role::Dense),
        weights: placement.summary,
        seconds: started.elapsed().as_secs_f64(),
    })
}
