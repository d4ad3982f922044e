//! Where the model will find its weights, and which weights files must exist.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::open::Opened;
use super::spec::{ModelSpec, PackageSpec, Spec};
use super::{ExternalData, WeightsSummary, shards};
use crate::checkpoint::Checkpoint;
use crate::error::{Result, Setting, bail, err};
use crate::files::{FileRange, parent_dir};
use crate::package::transformers_js;
use crate::weights::{self, Fingerprint, Weight, WeightsFile, relative_to};

/// The decision for one export.
#[derive(Default)]
pub struct Placement<'w> {
    /// Weights files that must exist, in the order of writing.
    files: Vec<(PathBuf, WeightsFile<'w>)>,
    /// The byte range of each weight, relative to the model's folder; empty without a model.
    ranges: HashMap<String, FileRange>,
    in_place: bool,
    /// Why the source is not referenced in place, although it was not asked for.
    obstacle: Option<String>,
}

impl<'w> Placement<'w> {
    /// A staged file in the model's folder or below is the model's data. Otherwise the
    /// source itself if ONNX can refer to it, with a file for weights that must be written;
    /// otherwise a file for all.
    pub fn decide(spec: &Spec, opened: &'w Opened) -> Result<Self> {
        let checkpoint = &opened.checkpoint;
        let mut placement = Self::default();
        if let Some(path) = &spec.save_weights {
            let all = checkpoint.weights.iter();
            let file = plan_file(all, opened.fingerprint(), checkpoint);
            placement.files.push((path.clone(), file));
        }
        let Some(model) = &spec.model else { return Ok(placement) };
        let in_place_alone = model.external_data == ExternalData::InPlace;
        if !in_place_alone && placement.use_staged_file(parent_dir(&model.path))? {
            return Ok(placement);
        }
        let others = if model.external_data == ExternalData::Copy {
            checkpoint.weights.iter().collect()
        } else {
            placement.reference_in_place(checkpoint, model, spec.headers_only())?
        };
        placement.in_place = others.is_empty();
        if !others.is_empty() {
            placement.copy_beside_model(others, model, opened)?;
        }
        Ok(placement)
    }

    /// Whether the staged file is the model's data.
    fn use_staged_file(&mut self, folder: &Path) -> Result<bool> {
        let Some((staged, file)) = self.files.first() else { return Ok(false) };
        let Ok(name) = relative_to(folder, staged)? else { return Ok(false) };
        self.ranges.extend(ranges(file, &name));
        Ok(true)
    }

    /// References weights where they are; the others must be written.
    fn reference_in_place(
        &mut self,
        checkpoint: &'w Checkpoint,
        model: &ModelSpec,
        headers_only: bool,
    ) -> Result<Vec<&'w Weight>> {
        let found = weights::reference(checkpoint.weights.iter(), parent_dir(&model.path))?;
        if let Some((file, obstacle)) = found.obstacle {
            let file = file.display();
            if model.external_data == ExternalData::InPlace {
                if headers_only {
                    bail!(
                        "without the weights the model must reference `{file}` in place: {obstacle}"
                    );
                }
                let instead = if obstacle.concerns_file() { "copy" } else { "auto" };
                return Err(err!("cannot reference `{file}` in place: {obstacle}")
                    .with_remedy(Setting::ExternalData, instead));
            }
            self.obstacle = obstacle.concerns_file().then(|| format!("`{file}`: {obstacle}"));
        }
        let named = found.in_place.into_iter().map(|(weight, range)| (weight.name.clone(), range));
        self.ranges.extend(named);
        Ok(found.others)
    }

    /// Plans files beside the model for some weights. The name tells which: all of them, or
    /// those that cannot be referenced in place.
    fn copy_beside_model(
        &mut self,
        weights: Vec<&'w Weight>,
        model: &ModelSpec,
        opened: &'w Opened,
    ) -> Result<()> {
        let checkpoint = &opened.checkpoint;
        let fingerprint = if self.ranges.is_empty() {
            opened.fingerprint().clone()
        } else {
            Fingerprint::of(&checkpoint.identity(), weights.iter().copied())?
        };
        let plan = |some: &[&'w Weight]| plan_file(some.iter().copied(), &fingerprint, checkpoint);
        let files = shards::split(weights, model.max_shard_size, plan)?;
        let count = files.len();
        for (at, file) in files.into_iter().enumerate() {
            let name = if model.package == Some(PackageSpec::TransformersJs) {
                transformers_js::data_file(&model.path, at)?
            } else {
                shards::name(&fingerprint, at, count)
            };
            self.ranges.extend(ranges(&file, &name));
            self.files.push((parent_dir(&model.path).join(&name), file));
        }
        Ok(())
    }

    /// Weights files that must exist.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &WeightsFile<'w>)> {
        self.files.iter().map(|(path, file)| (path.as_path(), file))
    }

    /// The byte range of a weight, relative to the model's folder.
    pub fn locate(&self, weight: &str) -> Option<FileRange> {
        self.ranges.get(weight).cloned()
    }

    pub fn summarize(&self, checkpoint: &Checkpoint, written: Vec<PathBuf>) -> WeightsSummary {
        let files = self.ranges.values().map(|range| range.file.to_string_lossy().into_owned());
        let mut files: Vec<String> = files.collect();
        files.sort();
        files.dedup();
        let reused = self.files().filter(|(path, _)| !written.iter().any(|it| it == path));
        let new = self.files().filter(|(path, _)| written.iter().any(|it| it == path));
        WeightsSummary {
            in_place: self.in_place,
            obstacle: self.obstacle.clone(),
            files,
            reused: reused.map(|(path, _)| path.to_owned()).collect(),
            bytes_referenced: checkpoint.weights.iter().map(Weight::bytes).sum(),
            bytes_written: new.map(|(_, file)| file.bytes()).sum(),
            written,
        }
    }
}

/// A file of some weights of a checkpoint.
fn plan_file<'w>(
    weights: impl Iterator<Item = &'w Weight>,
    fingerprint: &Fingerprint,
    checkpoint: &Checkpoint,
) -> WeightsFile<'w> {
    WeightsFile::plan(weights, fingerprint, &checkpoint.config, &checkpoint.provenances)
}

/// The byte ranges of a file's weights, for a model that calls it by this name.
fn ranges(file: &WeightsFile, name: &str) -> Vec<(String, FileRange)> {
    let named = |(weight, range): (&Weight, &std::ops::Range<u64>)| {
        let range = FileRange { file: Path::new(name).into(), range: range.clone() };
        (weight.name.clone(), range)
    };
    file.tensors().map(named).collect()
}
