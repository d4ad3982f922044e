//! Where the model will find its weights, and which weights files must exist.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::open::Opened;
use super::{Error, ExternalData, Request, WeightsSummary, shards};
use crate::checkpoint::Checkpoint;
use crate::container::Location;
use crate::paths::folder_of;
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
        let Opened { checkpoint, fingerprint, .. } = opened;
        let wanted = match request.headers_only() {
            true => ExternalData::InPlace,
            false => request.external_data,
        };
        let identified = || fingerprint.as_ref().expect("weights that are here are identified");
        let mut placement = Self::default();
        let all = || checkpoint.weights.iter();
        if let Some(path) = &request.save_weights {
            let store =
                Store::plan(all(), identified(), &checkpoint.config, &checkpoint.provenances);
            placement.stores.push((path.clone(), store));
        }
        let Some(output) = &request.output else { return Ok(placement) };
        let folder = folder_of(output);
        let wanted = match (request.largest_shard(), wanted) {
            // Nobody could say how large the files are that are there.
            (Some(_), _) => ExternalData::Copy,
            (None, wanted) => wanted,
        };
        if wanted != ExternalData::InPlace
            && let Some((staged, store)) = placement.stores.first()
            && let Ok(file) = relative_to(folder, staged).map_err(weights::Error::from)?
        {
            placement.locations.extend(locations(store, &file));
            return Ok(placement);
        }
        let found = match wanted {
            ExternalData::Copy => None,
            _ => match in_place(all(), folder) {
                Ok(found) => Some(found),
                Err(weights::Error::NotInPlace { file, obstacle })
                    if wanted == ExternalData::Auto =>
                {
                    placement.obstacle = Some(format!("`{}`: {obstacle}", file.display()));
                    None
                }
                Err(error) => return Err(error.into()),
            },
        };
        let found = found.unwrap_or_else(|| vec![None; all().count()]);
        let mut made = Vec::new();
        for (weight, location) in all().zip(found) {
            match location {
                Some(location) => {
                    placement.locations.insert(weight.name.clone(), location);
                }
                None => made.push(weight),
            }
        }
        if wanted == ExternalData::InPlace
            && let Some((weight, obstacle)) =
                made.iter().find_map(|weight| Some((weight, weights::obstacle(weight)?)))
        {
            let file = weight.recipe.sources()[0].file.to_path_buf();
            return Err(weights::Error::NotInPlace { file, obstacle }.into());
        }
        placement.in_place = made.is_empty();
        if !made.is_empty() {
            placement.store_beside(made, request, output, checkpoint, identified())?;
        }
        Ok(placement)
    }

    /// Puts some weights into a file beside the model. Its name tells which:
    /// all of them, or those that cannot stay where they are.
    fn store_beside(
        &mut self,
        made: Vec<&'w Weight>,
        request: &Request,
        output: &Path,
        checkpoint: &'w Checkpoint,
        of_all: &Fingerprint,
    ) -> Result<(), Error> {
        let some;
        let fingerprint = match self.locations.is_empty() {
            true => of_all,
            false => {
                let made = made.iter().copied();
                some = Fingerprint::of(&checkpoint.identity(), made)?;
                &some
            }
        };
        let plan = |weights: &[&'w Weight]| {
            let weights = weights.iter().copied();
            Store::plan(weights, fingerprint, &checkpoint.config, &checkpoint.provenances)
        };
        let stores = shards::split(made, request.largest_shard(), plan)?;
        let count = stores.len();
        for (at, store) in stores.into_iter().enumerate() {
            let file = match request.graph.transformers_js {
                true => shards::name_for_transformers_js(output, at)?,
                false => shards::name(fingerprint, at, count),
            };
            self.locations.extend(locations(&store, &file));
            self.stores.push((folder_of(output).join(&file), store));
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

fn locations<'s>(store: &'s Store, file: &'s str) -> impl Iterator<Item = (String, Location)> + 's {
    store.places().map(move |(weight, range): (&Weight, &Range<u64>)| {
        (weight.name.clone(), Location { file: file.to_owned(), range: range.clone() })
    })
}
