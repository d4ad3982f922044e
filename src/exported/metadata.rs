//! The metadata of a model: one JSON object among the ONNX file's metadata properties,
//! written by an export, read by `inspect` and `verify`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{AdapterRecord, Config, IgnoredNames, MOST_LAYERS};
use crate::error::{Result, bail, ensure, err};
use crate::model::{GraphOptions, LimitedCaches, ModelPart};
use crate::weights::{Fingerprint, PerRole, Provenance};

pub const KEY: &str = "gpt_oss_export";
pub const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    pub version: u32,
    /// What runs the model, for people.
    pub requires: String,
    /// Fingerprint of the weights; `None` if they were still on the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Repository and commit of a checkpoint from the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Adapters of which the model has the changes, in this order, the merged ones first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub adapters: Vec<AdapterRecord>,
    /// The config with all layers of the checkpoint, by which adapters are fitted; of a model with
    /// optional inputs for them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config: Option<Config>,
    /// What was ignored of the checkpoint.
    #[serde(skip_serializing_if = "IgnoredNames::is_empty", default)]
    pub ignored: IgnoredNames,
    pub options: GraphOptions,
    /// Layers of the whole model, the first ones of the checkpoint.
    pub layers: usize,
    /// Of a stage or another part of a model: what it has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<ModelPart>,
    /// Tokens of the longest text, by the checkpoint's config; older models do not say it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<u64>,
    /// Caches that keep the last tokens alone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub limited_caches: Vec<LimitedCaches>,
    #[serde(flatten)]
    pub provenances: PerRole<Provenance>,
    /// Values that hold the residual stream: the embedding in the first part, then after each layer.
    pub residuals: Vec<String>,
    /// Values that hold router scores, layer by layer.
    pub routers: Vec<String>,
    /// Initializers that hold some bytes of a weight; others hold a whole weight, under its
    /// name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub slices: BTreeMap<String, WeightSlice>,
    /// Digests of the files that the model reads, by their paths.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub data: BTreeMap<String, String>,
    /// SHA-256 of the `genai_config.json` that was written with the model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub genai_config: Option<String>,
}

/// Some bytes of a weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightSlice {
    pub weight: String,
    /// Bytes from the beginning of the weight.
    pub bytes: Range<u64>,
}

impl ModelMetadata {
    /// What the graph has of the model.
    pub fn part(&self) -> ModelPart {
        self.stage.clone().unwrap_or_else(|| ModelPart::whole(self.layers))
    }

    /// The value of the property [`KEY`].
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// Reads the metadata from a model's properties; `None` for a model of another program.
    pub fn read(properties: &BTreeMap<String, String>) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Some(text) = properties.get(KEY) else { return Ok(None) };
        let invalid = |error| err!("its metadata `{KEY}` is not valid: {error}");
        // Another version may have other keys.
        let Version { version } = serde_json::from_str(text).map_err(invalid)?;
        if version != VERSION {
            bail!("its metadata has version {version}, expected {VERSION}: export it again");
        }
        let metadata: Self = serde_json::from_str(text).map_err(invalid)?;
        // Layers are counted one by one.
        let ModelPart { layers, all_layers, .. } = metadata.part();
        let most = layers.start.max(layers.end).max(all_layers).max(metadata.layers);
        ensure!(
            most <= MOST_LAYERS,
            "its metadata `{KEY}` is not valid: it has {most} layers, expected at most {MOST_LAYERS}"
        );
        Ok(Some(metadata))
    }
}
