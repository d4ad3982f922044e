//! The numbers of a config: OpenAI's, Hugging Face's, or that of a staged weights file.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::names::matches_any;
use crate::error::{Error, Result, Setting, ensure, err};
use crate::reference::model::{Hyperparameters, Yarn};

/// The most bytes of a config.
pub const MOST_BYTES: u64 = 1 << 24;
/// Counts are below, so that products of a few fit into 64 bits.
const MOST: u64 = 1 << 24;

/// Keys whose null is not their default: programs refuse it, or take it for something else.
const NEVER_NULL: [&str; 3] = ["attention_bias", "rms_norm_eps", "swiglu_limit"];

/// The values of a config by their keys; those within an object as `object.key`.
pub struct Keys<'k> {
    file: &'k Path,
    values: BTreeMap<String, Value>,
    ignored: &'k [String],
}

impl<'k> Keys<'k> {
    /// Of keys that mean the same, the `ignored` ones are read if there is no other.
    pub fn new(file: &'k Path, config: Map<String, Value>, ignored: &'k [String]) -> Self {
        let flat = |(key, value)| match value {
            Value::Object(inner) => {
                inner.into_iter().map(|(at, value)| (format!("{key}.{at}"), value)).collect()
            }
            value => vec![(key, value)],
        };
        let values = config.into_iter().flat_map(flat);
        let values = values.filter(|(key, value)| !value.is_null() || NEVER_NULL.contains(&&**key));
        Self { file, values: values.collect(), ignored }
    }

    pub fn hyperparameters(&self) -> Result<Hyperparameters> {
        let theta = "rope_theta rope_scaling.rope_theta rope_parameters.rope_theta rope.theta";
        let numbers = Hyperparameters {
            vocab: self.count("vocab_size")?,
            hidden: self.count("hidden_size")?,
            inner: self.count("intermediate_size")?,
            head_dim: self.count("head_dim")?,
            heads: self.count("num_attention_heads num_heads")?,
            kv_heads: self.count("num_key_value_heads num_kv_heads")?,
            experts_per_token: self.count("num_experts_per_tok experts_per_token")?,
            windows: self.windows()?,
            epsilon: self.number("rms_norm_eps")?.unwrap_or(1e-5),
            swiglu_limit: self.number("swiglu_limit")?.unwrap_or(7.0),
            theta: self.number(theta)?.ok_or_else(|| self.lacks(theta))?,
            yarn: self.yarn()?,
            attention_bias: self.value("attention_bias", Value::as_bool)?.unwrap_or(true),
            is_tied: self.value("tie_word_embeddings tied", Value::as_bool)?.unwrap_or(false),
        };
        let Hyperparameters { heads, kv_heads, head_dim, .. } = numbers;
        ensure!(
            heads % kv_heads == 0 && head_dim % 2 == 0,
            "`{}`: {heads} heads of {head_dim} dimensions cannot share {kv_heads} of keys and rotate pairs",
            self.file.display()
        );
        Ok(numbers)
    }

    /// Without a list, layers alternate and the first has a window. Zero is no window.
    fn windows(&self) -> Result<Vec<Option<u64>>> {
        let list = |key: &'static str| Some((key, self.values.get(key)?.as_array()?));
        let list = ["windows", "block_configs", "layer_types"].into_iter().find_map(list);
        let common = self.value("sliding_window", Value::as_u64)?;
        let Some((key, list)) = list else {
            let window = common.ok_or_else(|| self.lacks("sliding_window"))?;
            let of_layer = |n| Some(window).filter(|window| n % 2 == 0 && *window > 0);
            return Ok((0..self.count("num_hidden_layers")?).map(of_layer).collect());
        };
        let of_layer = |layer: &Value| {
            let window = match layer {
                Value::Object(block) => block.get("sliding_window")?,
                layer => layer,
            };
            match window {
                Value::Null => Some(None),
                Value::String(kind) if kind == "full_attention" => Some(None),
                Value::String(kind) if kind == "sliding_attention" => common.map(Some),
                window => window.as_u64().map(Some),
            }
        };
        list.iter().map(|it| of_layer(it).ok_or_else(|| self.unexpected(key, it))).collect()
    }

    /// `None` if positions are not stretched.
    fn yarn(&self) -> Result<Option<Yarn>> {
        let within = |key: &str| format!("rope_scaling.{key} rope_parameters.{key}");
        let kinds = within("rope_type") + " " + &within("type");
        let is_yarn = |kind: &Value| match kind.as_str()? {
            "yarn" => Some(true),
            "default" => Some(false),
            _ => None,
        };
        if self.value(&kinds, is_yarn)? == Some(false) {
            return Ok(None);
        }
        let factor = within("factor") + " rope_scaling_factor rope.factor";
        let factor = self.number(&factor)?.ok_or_else(|| self.lacks(&factor))?;
        if factor <= 1.0 {
            return Ok(None);
        }
        let fast = self.number(&(within("beta_fast") + " rope_ntk_beta rope.fast"))?;
        let slow = self.number(&(within("beta_slow") + " rope_ntk_alpha rope.slow"))?;
        let context = within("original_max_position_embeddings")
            + " initial_context_length rope.initial_context";
        let context = self.number(&context)?.ok_or_else(|| self.lacks(&context))?;
        Ok(Some(Yarn { factor, fast: fast.unwrap_or(32.0), slow: slow.unwrap_or(1.0), context }))
    }

    fn count(&self, keys: &str) -> Result<u64> {
        let count = |value: &Value| value.as_u64().filter(|count| (1..MOST).contains(count));
        self.value(keys, count)?.ok_or_else(|| self.lacks(keys))
    }

    fn number(&self, keys: &str) -> Result<Option<f64>> {
        self.value(keys, Value::as_f64)
    }

    /// The value under keys that mean the same, separated by spaces, if there is one.
    fn value<T: PartialEq>(
        &self,
        keys: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let found = keys.split(' ').filter_map(|key| Some((key, self.values.get(key)?)));
        let mut found: Vec<_> = found.collect();
        let is_read = |key: &str| !matches_any(self.ignored, key);
        if found.iter().any(|(key, _)| is_read(key)) {
            found.retain(|(key, _)| is_read(key));
        }
        let parsed = |(key, value)| match parse(value) {
            Some(parsed) => Ok((key, parsed)),
            None => Err(self.unexpected(key, value)),
        };
        let mut found = found.into_iter().map(parsed).collect::<Result<Vec<_>>>()?;
        if let Some((key, _)) = found.iter().find(|(_, value)| *value != found[0].1) {
            let (file, one) = (self.file.display(), found[0].0);
            let error = err!(
                "`{file}`: keys `{one}` and `{key}` mean the same and differ: ignore the one that is wrong"
            );
            let remedy = |error: Error, key| error.with_remedy(Setting::IgnoreConfigKey, key);
            return Err([*key, one].into_iter().fold(error, remedy));
        }
        Ok(found.pop().map(|(_, value)| value))
    }

    fn lacks(&self, keys: &str) -> Error {
        let (file, keys) = (self.file.display(), keys.replace(' ', "` or `"));
        err!("`{file}` lacks the key `{keys}`, which the reference needs")
    }

    fn unexpected(&self, key: &str, value: &Value) -> Error {
        let file = self.file.display();
        err!("`{file}`: the reference does not know what {value} under `{key}` means")
    }
}
