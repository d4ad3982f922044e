//! Reads a checkpoint for the reference. It is written from the formats' definitions and shares
//! nothing with the exporter's reader, so a fault of one is none of the other.
//!
//! It refuses only what leaves it without an answer; the exporter's reader has refused the rest.

mod adapter;
mod adapter_config;
mod config;
mod copies;
mod names;
mod quantities;
mod targets;
mod tensors;

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use adapter::AdapterToRead;

use super::matrix::EncodedNumbers;
use super::model::ReferenceModel;
use crate::error::Result;
use crate::files::json;
use adapter::AdapterReader;
use config::{Keys, MOST_BYTES};
use copies::ValuesOfAdapters;
use quantities::Reader;
use tensors::{NamedTensors, Precedence};

/// What is read of a checkpoint, and what is not.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions<'o> {
    /// The first layers; all if `None`.
    pub layers: Option<usize>,
    /// Config keys that are not read where another one has the same meaning: names, or patterns
    /// with `*` and `?`.
    pub ignored_keys: &'o [String],
    /// The same of tensors.
    pub ignored_tensors: &'o [String],
    /// Matrices whose numbers are taken from elsewhere, by their canonical names.
    pub replaced: HashMap<String, EncodedNumbers>,
    /// Adapters whose changes the model has.
    pub adapters: Vec<AdapterToRead>,
    /// Whether the numbers from elsewhere have the changes of adapters already.
    pub are_merged: bool,
}

/// Reads the headers of a checkpoint's folder or of a staged weights file, and of adapters.
pub fn read(source: &Path, options: &ReadOptions) -> Result<ReferenceModel> {
    let ReadOptions { ignored_keys, ignored_tensors, replaced, adapters, .. } = options;
    let is_merged = |matrix: &str| options.are_merged && replaced.contains_key(matrix);
    let (mut tensors, path, config);
    if source.is_dir() {
        tensors = tensors::of_folder(source, ignored_tensors)?;
        path = source.join("config.json");
        config = json::parse(path.display(), &json::read(&path, MOST_BYTES)?)?;
    } else {
        /// The metadata of a staged weights file.
        #[derive(Deserialize)]
        struct StagedConfig {
            config: Map<String, Value>,
        }
        let metadata: String;
        (tensors, metadata) = tensors::of_staged(source, ignored_tensors)?;
        path = source.to_owned();
        config = json::parse::<StagedConfig>(path.display(), metadata.as_bytes())?.config;
    }
    let mut numbers = Keys::new(&path, config, ignored_keys).hyperparameters()?;
    numbers.windows.truncate(options.layers.unwrap_or(usize::MAX));
    if numbers.is_tied {
        // One that is ignored differs from the embedding.
        tensors.retain(|name, it| it.precedence > Precedence::Ignored || name != "lm_head.weight");
    }
    let (mut changes, mut replacing) = (Vec::new(), ValuesOfAdapters::new());
    for adapter in adapters {
        let (adapter, values) = AdapterReader::open(adapter, ignored_tensors)?;
        values.into_iter().for_each(|(name, it)| replacing.entry(name).or_default().push(it));
        changes.push(adapter);
    }
    let mut reader = Reader { tensors: NamedTensors { source, by_name: tensors }, replaced };
    let replacing = copies::without_copies(&mut reader, &numbers, replacing)?;
    reader.tensors.by_name.extend(replacing);
    let mut model = reader.model(numbers)?;
    changes.iter().try_for_each(|adapter| adapter.change(&mut model, &is_merged))?;
    Ok(model)
}
