//! Where the model will find its weights, and which weights files must exist.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::open::Opened;
use super::{ExternalData, Request, WeightsSummary, shards};
use crate::checkpoint::Checkpoint;
use crate::container::Location;
use crate::error::Error;
use crate::files::parent_dir;
use crate::weights::{self, Fingerprint, Store, Weight, in_place, relative_to};

/// The decision for one export.
#[derive(Default)]
pub struct Placement<'w> {
    /// Weights files of ours that must exist, in the order of writing.
    stores: Vec<(PathBuf, Store<'w>)>,
    /// Where each weight is, seen from the model; empty when there is none.
    locations: HashMap<String, Location>,
    in_place: bool,
    /// What keeps the source from being referenced where it is.
    obstacle: Option<String>,
}

impl<'w> Placement<'w> {
    /// A staged file in the model's folder or below is the model's data; else
    /// the source itself, where ONNX can refer to it, with a file beside for
    /// weights that must be made; else a file beside for all.
    pub fn decide(request: &Request, opened: &'w Opened) -> Result<Self, Error> {
        let checkpoint = &opened.checkpoint;
        let mut placement = Self::default();
        if let Some(path) = &request.save_weights {
            let all = checkpoint.weights.iter();
            placement.stores.push((path.clone(), store(all, opened.identified(), checkpoint)));
        }
        let Some(output) = &request.output else { return Ok(placement) };
        let wanted = match (request.headers_only(), request.largest_shard()) {
            (true, _) => ExternalData::InPlace,
            // Nobody could say how large the files are that are there.
            (_, Some(_)) => ExternalData::Copy,
            _ => request.external_data,
        };
        if wanted != ExternalData::InPlace && placement.takes_staged(parent_dir(output))? {
            return Ok(placement);
        }
        let made = match wanted {
            ExternalData::Copy => checkpoint.weights.iter().collect(),
            _ => placement.leave_in_place(checkpoint, parent_dir(output), wanted)?,
        };
        placement.in_place = made.is_empty();
        if !made.is_empty() {
            placement.store_beside(made, request, output, opened)?;
        }
        Ok(placement)
    }

    /// Whether the model's data is the staged file.
    fn takes_staged(&mut self, folder: &Path) -> Result<bool, Error> {
        let Some((staged, store)) = self.stores.first() else { return Ok(false) };
        let Ok(file) = relative_to(folder, staged).map_err(weights::Error::from)? else {
            return Ok(false);
        };
        self.locations.extend(locations(store, &file));
        Ok(true)
    }

    /// Finds the weights where they are, as far as ONNX can refer to them there, and says
    /// which must be made.
    fn leave_in_place(
        &mut self,
        checkpoint: &'w Checkpoint,
        folder: &Path,
        wanted: ExternalData,
    ) -> Result<Vec<&'w Weight>, Error> {
        let all = || checkpoint.weights.iter();
        let found = match in_place(all(), folder) {
            Ok(found) => found,
            Err(weights::Error::NotInPlace { file, obstacle }) if wanted == ExternalData::Auto => {
                self.obstacle = Some(format!("`{}`: {obstacle}", file.display()));
                return Ok(all().collect());
            }
            Err(error) => return Err(error.into()),
        };
        let mut made = Vec::new();
        for (weight, location) in all().zip(found) {
            match location {
                Some(location) => {
                    self.locations.insert(weight.name.clone(), location);
                }
                None => made.push(weight),
            }
        }
        let obstacle = |weight: &&Weight| {
            Some((weight.recipe.sources()[0].file.clone(), weights::obstacle(weight)?))
        };
        match made.iter().find_map(obstacle) {
            Some((file, obstacle)) if wanted == ExternalData::InPlace => {
                Err(weights::Error::NotInPlace { file: file.to_path_buf(), obstacle }.into())
            }
            _ => Ok(made),
        }
    }

    /// Puts some weights into a file beside the model. Its name tells which:
    /// all of them, or those that cannot stay where they are.
    fn store_beside(
        &mut self,
        made: Vec<&'w Weight>,
        request: &Request,
        output: &Path,
        opened: &'w Opened,
    ) -> Result<(), Error> {
        let checkpoint = &opened.checkpoint;
        let some;
        let fingerprint = match self.locations.is_empty() {
            true => opened.identified(),
            false => {
                let made = made.iter().copied();
                some = Fingerprint::of(&checkpoint.identity(), made)?;
                &some
            }
        };
        let plan = |weights: &[&'w Weight]| store(weights.iter().copied(), fingerprint, checkpoint);
        let stores = shards::split(made, request.largest_shard(), plan)?;
        let count = stores.len();
        for (at, store) in stores.into_iter().enumerate() {
            let file = match request.transformers_js {
                true => shards::name_for_transformers_js(output, at)?,
                false => shards::name(fingerprint, at, count),
            };
            self.locations.extend(locations(&store, &file));
            self.stores.push((parent_dir(output).join(&file), store));
        }
        Ok(())
    }

    /// Weights files that must exist.
    pub fn stores(&self) -> impl Iterator<Item = (&Path, &Store<'w>)> {
        self.stores.iter().map(|(path, store)| (path.as_path(), store))
    }

    /// Where a weight is, seen from the model.
    pub fn locate(&self, weight: &str) -> Option<Location> {
        self.locations.get(weight).cloned()
    }

    /// What became of the weights, when these files had to be written.
    pub fn summarise(&self, checkpoint: &Checkpoint, written: Vec<PathBuf>) -> WeightsSummary {
        let mut files: Vec<String> =
            self.locations.values().map(|location| location.file.clone()).collect();
        files.sort();
        files.dedup();
        let stores = || self.stores.iter();
        let reused = stores().filter(|(path, _)| !written.contains(path));
        let new = stores().filter(|(path, _)| written.contains(path));
        WeightsSummary {
            in_place: self.in_place,
            obstacle: self.obstacle.clone(),
            files,
            reused: reused.map(|(path, _)| path.clone()).collect(),
            bytes_referenced: checkpoint.weights.iter().map(weights::Weight::bytes).sum(),
            bytes_written: new.map(|(_, store)| store.bytes()).sum(),
            written,
        }
    }
}

/// A file of some weights of a checkpoint.
fn store<'w>(
    weights: impl Iterator<Item = &'w Weight>,
    fingerprint: &Fingerprint,
    checkpoint: &Checkpoint,
) -> Store<'w> {
    Store::plan(weights, fingerprint, &checkpoint.config, &checkpoint.provenances)
}

fn locations<'s>(store: &'s Store, file: &'s str) -> impl Iterator<Item = (String, Location)> + 's {
    store.places().map(move |(weight, range): (&Weight, &Range<u64>)| {
        (weight.name.clone(), Location { file: file.to_owned(), range: range.clone() })
    })
}
