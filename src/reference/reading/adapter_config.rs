//! The config of a LoRA adapter, by PEFT's rules for names.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;

use super::config::MOST_BYTES;
use crate::error::{Result, err};
use crate::files::json::{self, OrderedObject};

/// The keys of an `adapter_config.json` that the reference needs.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AdapterKeys {
    lora_alpha: Option<f64>,
    alpha_pattern: Option<OrderedObject>,
    use_rslora: Option<bool>,
    target_parameters: Option<Vec<String>>,
    trainable_token_indices: Option<Tokens>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    OfEmbedding(Vec<u64>),
    OfModules(BTreeMap<String, Vec<u64>>),
}

impl AdapterKeys {
    /// Reads an `adapter_config.json`.
    pub fn read(path: &Path) -> Result<Self> {
        json::parse(path.display(), &json::read(path, MOST_BYTES)?)
    }

    /// `alpha / r`, or `alpha / √r`, for the module of this name.
    pub fn scale(&self, module: &str, rank: u64) -> Result<f64> {
        let weight = format!("{module}.weight");
        let name = if self.targets(&weight) { &weight } else { module };
        let mut alpha = self.lora_alpha;
        for (key, value) in self.alpha_pattern.iter().flat_map(|patterns| &patterns.0) {
            // Python's `re.match`, of which the first counts.
            let pattern = Regex::new(&format!(r"^(.*\.)?({key})$"));
            if pattern.map_err(|error| err!("pattern `{key}`: {error}"))?.is_match(name) {
                alpha = value.as_f64();
                break;
            }
        }
        let alpha = alpha.ok_or_else(|| err!("nothing says what `lora_alpha` of `{name}` is"))?;
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora == Some(true) { rank.sqrt() } else { rank })
    }

    /// Whether a parameter is a target.
    pub fn targets(&self, parameter: &str) -> bool {
        self.target_parameters.iter().flatten().any(|end| is_end(end, parameter))
    }

    /// The tokens of which a module has new rows.
    pub fn tokens(&self, module: &str) -> &[u64] {
        match &self.trainable_token_indices {
            None => &[],
            Some(Tokens::OfEmbedding(tokens)) => tokens,
            Some(Tokens::OfModules(modules)) => {
                let found = modules.iter().find(|(end, _)| is_end(end, module));
                found.map_or(&[], |(_, tokens)| tokens)
            }
        }
    }
}

/// Whether a name ends in these components.
fn is_end(end: &str, name: &str) -> bool {
    format!(".{name}").ends_with(&format!(".{end}"))
}
