//! Where the model will find its weights, and which weights files must exist.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Error, ExternalData, Request, WeightsSummary};
use crate::checkpoint::Checkpoint;
use crate::container::Location;
use crate::paths::folder_of;
use crate::weights::{self, Fingerprint, Store, in_place, relative_to};

/// The decision for one export.
pub struct Placement {
    /// Weights files of ours that must exist, in the order of writing.
    stores: Vec<PathBuf>,
    /// Where each weight is, seen from the model; empty when there is none.
    locations: HashMap<String, Location>,
    in_place: bool,
}

impl Placement {
    /// A staged file in the model's folder or below is the model's data; else
    /// the source itself, where ONNX can refer to it; else a file beside.
    pub fn decide(
        request: &Request,
        checkpoint: &Checkpoint,
        store: &Store,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Error> {
        let mut stores: Vec<PathBuf> = request.save_weights.iter().cloned().collect();
        let Some(output) = &request.output else {
            return Ok(Self { stores, locations: HashMap::new(), in_place: false });
        };
        let folder = folder_of(output);
        if request.external_data != ExternalData::InPlace
            && let Some(staged) = stores.first()
            && let Ok(file) = relative_to(folder, staged).map_err(weights::Error::from)?
        {
            return Ok(Self { locations: locations(store, &file), stores, in_place: false });
        }
        if request.external_data != ExternalData::Copy {
            match in_place(checkpoint.weights.iter(), folder) {
                Ok(found) => {
                    let names = checkpoint.weights.iter().map(|weight| weight.name.clone());
                    return Ok(Self {
                        stores,
                        locations: names.zip(found).collect(),
                        in_place: true,
                    });
                }
                Err(weights::Error::NotInPlace { .. })
                    if request.external_data == ExternalData::Auto => {}
                Err(error) => return Err(error.into()),
            }
        }
        let file = format!("weights-{fingerprint}.safetensors");
        stores.push(folder.join(&file));
        Ok(Self { locations: locations(store, &file), stores, in_place: false })
    }

    /// Weights files that must exist.
    pub fn stores(&self) -> impl Iterator<Item = &Path> {
        self.stores.iter().map(PathBuf::as_path)
    }

    /// Where a weight is, seen from the model.
    pub fn locate(&self, weight: &str) -> Option<Location> {
        self.locations.get(weight).cloned()
    }

    /// What became of the weights, when these files had to be written.
    pub fn summarise(
        &self,
        checkpoint: &Checkpoint,
        written: Vec<PathBuf>,
        size: u64,
    ) -> WeightsSummary {
        let mut files: Vec<String> =
            self.locations.values().map(|location| location.file.clone()).collect();
        files.sort();
        files.dedup();
        WeightsSummary {
            in_place: self.in_place,
            files,
            reused: self.stores.iter().filter(|path| !written.contains(path)).cloned().collect(),
            bytes_referenced: checkpoint.weights.iter().map(weights::Weight::bytes).sum(),
            bytes_written: written.len() as u64 * size,
            written,
        }
    }
}

fn locations(store: &Store, file: &str) -> HashMap<String, Location> {
    let place = |(name, range): (&str, &std::ops::Range<u64>)| {
        (name.to_owned(), Location { file: file.to_owned(), range: range.clone() })
    };
    store.ranges().map(place).collect()
}
