//! The inputs of a step: token ids, or the residual stream behind earlier layers, and with a cache
//! the mask, keys and values.
//!
//! A row has `S = P + T` places: `P` of earlier steps, whose keys and values are in the
//! cache, and `T` of this step. The attention mask tells tokens from padding; without a mask
//! all places are tokens, and `P` is 0. A cache that is limited to a window `w` has `P_w` places.

use std::collections::{BTreeMap, BTreeSet};

use super::options::GraphOptions;
use super::part::{ModelPart, hidden_states};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::{Dim, Fact, Scope, Value};
use crate::tensor::DType;

pub struct Sequence {
    /// `input_ids`, i64 `[B, T]`, or of a part that is not the first `hidden_states.N`, f32
    /// `[B, T, hidden]`.
    pub input: Value,
    /// `attention_mask`, i64 `[B, S]`: 1 for a token, 0 for padding.
    pub mask: Option<Value>,
    /// `past_key_values.N.key|value` `[B, kv, P or P_w, D]`: keys and values of each layer, or none.
    pub past: BTreeMap<usize, [Value; 2]>,
    /// Key heads of a layer.
    pub kv: Dim,
    /// The window to which each layer's cache is limited.
    limits: BTreeMap<usize, Option<u64>>,
    /// B, the rows of a batch.
    pub batch: Dim,
    /// T, the tokens of a row in this step.
    pub length: Dim,
    /// S, the places of a row.
    pub places: Dim,
}

/// Numbers of tokens in each row, i64 `[B, 1]`.
pub struct Counts {
    /// In this step.
    pub now: Value,
    /// In earlier steps.
    pub earlier: Value,
    /// In all of them.
    pub all: Value,
}

impl Sequence {
    /// Declares the inputs, caches in [`Sequence::cache_order`].
    pub fn new(
        g: &mut Scope,
        config: &Config,
        part: &ModelPart,
        options: &GraphOptions,
    ) -> Result<Self> {
        let dim =
            |fixed: Option<u64>, symbol: &str| fixed.map_or_else(|| Dim::symbol(symbol), Dim::from);
        let batch = dim(options.batch, &options.batch_symbol.to_string());
        let length = dim(options.length, "T");
        let earlier = if options.has_cache() { past_places(None) } else { Dim::from(0) };
        let places = earlier.plus(&length);

        let input = if part.is_first() {
            g.input("input_ids", Fact::new(DType::I64, [&batch, &length]))?
        } else {
            let fact = Fact::new(DType::F32, [&batch, &length, &config.hidden_size.into()]);
            g.input(&hidden_states(part.layers.start), fact)?
        };
        let mask = Fact::new(DType::I64, [&batch, &places]);
        let mask = options.has_mask().then(|| g.input("attention_mask", mask)).transpose()?;
        let limit = |n| (n, options.cache_window(config.windows[n]));
        let limits = part.layers.clone().map(limit).collect();
        let [kv, width] = [config.num_kv_heads, config.head_dim].map(Dim::from);
        let past = BTreeMap::new();
        let mut sequence = Self { input, mask, past, kv, limits, batch, length, places };
        if options.has_cache() {
            for n in sequence.cache_order() {
                let places = past_places(sequence.limits[&n]);
                let shape = [&sequence.batch, &sequence.kv, &places, &width];
                let fact = Fact::new(options.compute, shape);
                let mut input =
                    |part| g.input(&format!("past_key_values.{n}.{part}"), fact.clone());
                let past = [input("key")?, input("value")?];
                sequence.past.insert(n, past);
            }
        }
        Ok(sequence)
    }

    /// The layers in the order in which their caches are inputs and outputs: first those that keep
    /// all tokens, because transformers.js takes the length of a text from the first cache.
    pub fn cache_order(&self) -> Vec<usize> {
        let mut layers: Vec<usize> = self.limits.keys().copied().collect();
        layers.sort_by_key(|n| self.limits[n].is_some());
        layers
    }

    /// The windows to which caches are limited; `None` is for caches that keep all tokens.
    pub fn limits(&self) -> BTreeSet<Option<u64>> {
        self.limits.values().copied().collect()
    }

    /// This step's part `[B, T]` of a value `[B, S]`.
    pub fn this_step(&self, g: &mut Scope, name: &str, x: Value) -> Result<Value> {
        if self.length == self.places { Ok(x) } else { g.slice_last(name, x, 1, &self.length) }
    }

    /// This step's part of the mask, i64 `[B, T]`, of a graph that has one.
    pub fn mask_of_step(&self, g: &mut Scope) -> Result<Value> {
        let mask =
            self.mask.expect("a cache or the last token is asked for, and so there is a mask");
        g.shared("tokens.mask", |g| self.this_step(g, "tokens.mask", mask))
    }

    /// How many tokens rows have, of a graph with a cache.
    pub fn counts(&self, g: &mut Scope) -> Result<Counts> {
        let (step, whole) = (self.mask_of_step(g)?, self.mask.expect("there is a cache"));
        let now = g.shared("tokens.now", |g| g.reduce_sum("tokens.now", step, 1, true))?;
        let all = g.shared("tokens.all", |g| g.reduce_sum("tokens.all", whole, 1, true))?;
        let earlier = g.shared("tokens.earlier", |g| g.sub("tokens.earlier", all, now))?;
        Ok(Counts { now, earlier, all })
    }

    /// The place in this step of the last 1 of each row's mask: i64 `[B, 1]`.
    pub fn last_places(&self, g: &mut Scope) -> Result<Value> {
        let here = self.mask_of_step(g)?;
        g.argmax_last("token", here, 1)
    }
}

/// P, or P_w of a cache that is limited to a window.
pub fn past_places(limit: Option<u64>) -> Dim {
    Dim::symbol(limit.map_or_else(|| "P".to_owned(), |window| format!("P_{window}")))
}
