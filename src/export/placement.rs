//! Where a model reads its weights, and which weights files an export writes or reuses.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::open::Opened;
use super::outputs::PartFile;
use super::{ExternalData, Request, WeightsSummary};
use crate::checkpoint::{Checkpoint, StagedModel};
use crate::error::{Result, Setting, bail, err};
use crate::files::{FileRange, parent_dir};
use crate::package::transformers_js;
use crate::progress::Progress;
use crate::publish::{Existing, Transaction, check_disk_space};
use crate::tensor::Rounding;
use crate::weights::{self, Fingerprint, PerRole, Present, Role, Weight, WeightsFile, relative_to};

/// The decision for one export.
pub struct Placement<'p> {
    request: &'p Request,
    opened: &'p Opened,
    /// Weights files to write or reuse, in the order of writing.
    pub files: Vec<(PathBuf, WeightsFile<'p>)>,
    /// For each graph, the byte range of each weight relative to the graph's folder.
    pub ranges: Vec<HashMap<String, FileRange>>,
    /// Complete once the files are written.
    pub summary: WeightsSummary,
}

impl<'p> Placement<'p> {
    /// By default a staged file in the model's folder or below is the model's data. Otherwise
    /// it is the source itself if ONNX can refer to it, with a file for weights that must be
    /// written; otherwise a file for all. [`ExternalData::InPlace`] allows the source alone,
    /// [`ExternalData::Copy`] all but the source.
    pub fn decide(request: &'p Request, opened: &'p Opened) -> Result<Self> {
        let Opened { checkpoint, outputs, .. } = opened;
        let of_outputs = outputs.iter().flat_map(|it| it.part.weights(&checkpoint.weights));
        let staged = checkpoint.weights.iter().filter(|_| outputs.is_empty());
        let named = of_outputs.chain(staged).map(|it| (&it.name, it.bytes()));
        let bytes_referenced = named.collect::<HashMap<_, _>>().into_values().sum();
        let in_place = !outputs.is_empty();
        let summary = WeightsSummary { in_place, bytes_referenced, ..WeightsSummary::default() };
        let mut placement =
            Self { request, opened, files: Vec::new(), ranges: Vec::new(), summary };
        if let Some(path) = &request.save_weights {
            let fingerprint = opened.fingerprint.as_ref().expect("staged weights are here");
            let all: Vec<&Weight> = checkpoint.weights.iter().collect();
            let file = placement.plan_file(&all, fingerprint);
            placement.files.push((path.clone(), file));
        }
        for output in outputs {
            let ranges = placement.place(output)?;
            placement.ranges.push(ranges);
        }
        Ok(placement)
    }

    /// Where a graph reads its weights.
    fn place(&mut self, output: &'p PartFile) -> Result<HashMap<String, FileRange>> {
        let Self { request, opened, .. } = *self;
        let folder = parent_dir(&output.path);
        if request.external_data != ExternalData::InPlace
            && request.save_weights.is_some()
            && let Some((staged, file)) = self.files.first()
            && let Ok(name) = relative_to(folder, staged)?
        {
            self.summary.in_place = false;
            return Ok(ranges_of(file, &name).collect());
        }
        let all = output.part.weights(&opened.checkpoint.weights);
        let (mut ranges, others) = if request.external_data == ExternalData::Copy {
            (HashMap::new(), all.collect())
        } else {
            self.reference_in_place(all, folder)?
        };
        if !others.is_empty() {
            self.summary.in_place = false;
            self.copy_beside(output, &others, &mut ranges)?;
        }
        Ok(ranges)
    }

    /// References weights where they are; the others must be written.
    fn reference_in_place(
        &mut self,
        weights: impl Iterator<Item = &'p Weight> + Clone,
        folder: &Path,
    ) -> Result<(HashMap<String, FileRange>, Vec<&'p Weight>)> {
        let found = weights::reference(weights, folder)?;
        if let Some((file, obstacle)) = found.obstacle {
            let file = file.display();
            if self.request.external_data == ExternalData::InPlace {
                if self.request.source.headers_only() {
                    bail!(
                        "without the weights the model must reference `{file}` in place: {obstacle}"
                    );
                }
                // A staged file, or another folder's, may be read in place.
                let is_auto = !obstacle.concerns_file()
                    || self.request.save_weights.is_some()
                    || !found.in_place.is_empty();
                let instead = if is_auto { "auto" } else { "copy" };
                return Err(err!("cannot reference `{file}` in place: {obstacle}")
                    .with_remedy(Setting::ExternalData, instead));
            }
            self.summary.obstacle =
                obstacle.concerns_file().then(|| format!("`{file}`: {obstacle}"));
        }
        let named = found.in_place.into_iter().map(|(weight, range)| (weight.name.clone(), range));
        Ok((named.collect(), found.others))
    }

    /// Plans files beside a graph for some of its weights. The name tells which: all of the model,
    /// those of the graph, or those that cannot be referenced in place.
    fn copy_beside(
        &mut self,
        PartFile { path, part }: &PartFile,
        weights: &[&'p Weight],
        ranges: &mut HashMap<String, FileRange>,
    ) -> Result<()> {
        let Self { request, opened, .. } = *self;
        let fingerprint = match &opened.fingerprint {
            Some(whole) if ranges.is_empty() && part.is_whole() => whole.clone(),
            _ => Fingerprint::of(&opened.checkpoint.identity(), weights.iter().copied())?,
        };
        let plan = |some: &[&'p Weight]| self.plan_file(some, &fingerprint);
        let files = split(weights, request.max_shard_size.unwrap_or(u64::MAX), plan)?;
        let count = files.len();
        for (at, file) in files.into_iter().enumerate() {
            let name = if request.transformers_js {
                transformers_js::data_file(path, at)?
            } else if count == 1 {
                format!("{}.safetensors", file.stem)
            } else {
                format!("{}-{:05}-of-{count:05}.safetensors", file.stem, at + 1)
            };
            ranges.extend(ranges_of(&file, &name));
            self.files.push((parent_dir(path).join(&name), file));
        }
        Ok(())
    }

    fn plan_file(&self, weights: &[&'p Weight], fingerprint: &Fingerprint) -> WeightsFile<'p> {
        let Checkpoint { config, provenances, .. } = &self.opened.checkpoint;
        let adapters = self.opened.adapter_records();
        let weights = weights.iter().copied();
        let model = StagedModel { config: config.clone(), adapters: adapters.clone() };
        WeightsFile::plan(weights, fingerprint, &adapters, model, provenances)
    }

    /// Writes the weights files that do not exist, once there is space for them and for the files
    /// beside them, with their sizes in bytes. Returns what the conversions of all have rounded.
    pub fn write(
        &mut self,
        beside: &[(&Path, u64)],
        transaction: &mut Transaction,
        progress: &dyn Progress,
    ) -> Result<PerRole<Rounding>> {
        let existing = self.files.iter().map(|(path, file)| file.check_existing(path, progress));
        let existing = existing.collect::<Result<Vec<_>>>()?;
        let files = self.files.iter().zip(existing);
        let written = files.clone().filter(|(_, it)| !matches!(it, Present::Same(_)));
        let written = written.map(|((path, file), _)| (&**path, file.bytes()));
        check_disk_space(written.chain(beside.iter().copied()))?;

        let Self { summary, ranges, .. } = self;
        let mut sum = PerRole::default();
        for (at, ((path, file), existing)) in files.enumerate() {
            let mut write = |existing| {
                summary.written.push(path.clone());
                summary.bytes_written += file.bytes();
                transaction.create(path, existing, |handle| file.write(handle, path, progress))
            };
            let rounding = match existing {
                Present::Same(rounding) => {
                    summary.reused.push(path.clone());
                    rounding
                }
                Present::Nothing => write(Existing::Keep)?,
                Present::Damaged => write(Existing::Replace)?,
            };
            // A staged file comes first and holds everything; a copy rounds the same again.
            if at == 0 || self.request.save_weights.is_none() {
                Role::ALL.into_iter().for_each(|role| sum[role] += rounding[role]);
            }
        }
        let names = ranges
            .iter()
            .flat_map(HashMap::values)
            .map(|range| range.file.to_string_lossy().into_owned());
        summary.files = names.collect::<BTreeSet<_>>().into_iter().collect();
        Ok(sum)
    }
}

/// Plans as few files as it takes when each gets the next weights while they fit. What
/// one conversion makes stays together.
fn split<'w>(
    mut rest: &[&'w Weight],
    most: u64,
    plan: impl Fn(&[&'w Weight]) -> WeightsFile<'w>,
) -> Result<Vec<WeightsFile<'w>>> {
    let mut files = Vec::new();
    while !rest.is_empty() {
        let can_end =
            |end: &usize| *end == rest.len() || !rest[*end - 1].shares_conversion(rest[*end]);
        let ends: Vec<usize> = (1..=rest.len()).filter(can_end).collect();
        // What a file needs besides grows with its weights, so all that fits is found
        // by halves.
        let count = ends.partition_point(|end| plan(&rest[..*end]).bytes() <= most);
        if count == 0 {
            // What came before fits.
            let starts = [0].into_iter().chain(ends.iter().copied());
            let alone = starts.zip(&ends).map(|(start, end)| &rest[start..*end]);
            let sizes = alone.map(|weights| (plan(weights).bytes(), &weights[0].name));
            let (bytes, tensor) = sizes.max().expect("the rest is not empty");
            return Err(err!(
                "the maximum shard size is {most} bytes, and the largest tensor, `{tensor}`, takes a file of {bytes}"
            )
            .with_remedy(Setting::MaxShardSize, bytes.to_string()));
        }
        let (fitting, others) = rest.split_at(ends[count - 1]);
        files.push(plan(fitting));
        rest = others;
    }
    Ok(files)
}

/// The byte ranges of a file's weights, for a model that calls it by this name.
fn ranges_of(file: &WeightsFile, name: &str) -> impl Iterator<Item = (String, FileRange)> {
    let name: Arc<Path> = Path::new(name).into();
    file.tensors().map(move |(weight, range)| {
        (weight.name.clone(), FileRange { file: name.clone(), range: range.clone() })
    })
}
