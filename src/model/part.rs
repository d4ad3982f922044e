//! A part of a model: some of its layers, one after the other, as a graph of its own.
//!
//! The first part begins with the embedding, the last one ends with norm and lm_head. Between two
//! parts is the residual stream, `hidden_states.N` f32 `[B, T, hidden]` before layer N.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::checkpoint::ModelWeights;
use crate::display::{noun, spans};
use crate::weights::Weight;

/// Some layers of a model; for a whole model all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPart {
    /// Its place among the stages of a model; a whole model and a part by itself have none.
    #[serde(flatten)]
    pub stage: Option<StageNumber>,
    /// From 0.
    pub layers: Range<usize>,
    /// Number of layers of the whole model.
    pub all_layers: usize,
}

/// Which of how many stages, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StageNumber {
    pub number: usize,
    pub of: usize,
}

impl ModelPart {
    /// All layers of a model.
    pub fn whole(layers: usize) -> Self {
        Self { stage: None, layers: 0..layers, all_layers: layers }
    }

    /// Whether it is neither a stage nor lacks a layer.
    pub fn is_whole(&self) -> bool {
        self.stage.is_none() && self.is_first() && self.is_last()
    }

    /// Whether it begins with the embedding.
    pub fn is_first(&self) -> bool {
        self.layers.start == 0
    }

    /// Whether it ends with lm_head.
    pub fn is_last(&self) -> bool {
        self.layers.end == self.all_layers
    }

    /// The end of the name of a file of which each stage has its own; nothing without stages.
    pub fn suffix(&self) -> String {
        let stage = self.stage.map(|StageNumber { number, of }| format!(".stage-{number}-of-{of}"));
        stage.unwrap_or_default()
    }

    /// Whether a weight or matrix with this canonical name belongs to it.
    pub fn has(&self, name: &str) -> bool {
        let mut path = name.split('.');
        match path.next() {
            Some("layers") => {
                let layer = path.next().and_then(|it| it.parse().ok());
                layer.is_some_and(|layer| self.layers.contains(&layer))
            }
            Some("embedding") => self.is_first(),
            _ => self.is_last(),
        }
    }

    /// The weights that it reads; the last part reads an embedding to which lm_head is tied.
    pub fn weights<'w>(
        &'w self,
        weights: &'w ModelWeights,
    ) -> impl Iterator<Item = &'w Weight> + Clone {
        let is_tied = weights.lm_head.is_none() && self.is_last() && !self.is_first();
        let own = weights.iter().filter(|it| self.has(&it.name));
        own.chain(is_tied.then_some(&weights.embedding.weight))
    }
}

impl fmt::Display for ModelPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(StageNumber { number, of }) = self.stage {
            write!(f, "stage {number} of {of}, ")?;
        }
        let layers = noun(self.layers.len(), "layer");
        write!(f, "{layers} {} (the model has {})", spans(self.layers.clone()), self.all_layers)
    }
}

/// The part of the model that a node with this path belongs to: `attn.3`, `router.3`, `experts.3` in
/// the layers, and the first name of the path elsewhere. Settings of ONNX Runtime match beginnings, so
/// that what the part does comes first: `experts` stands for those of all layers.
pub fn part_of(path: &str) -> String {
    let names: Vec<&str> = path.splitn(5, '.').collect();
    match names[..] {
        ["layers", n, "mlp", "norm" | "router", ..] => format!("router.{n}"),
        ["layers", n, "mlp", ..] => format!("experts.{n}"),
        ["layers", n, block, ..] => format!("{block}.{n}"),
        ["layers", n] => format!("layers.{n}"),
        _ => names[0].to_owned(),
    }
}

/// The residual stream before a layer, between two parts.
pub fn hidden_states(layer: usize) -> String {
    format!("hidden_states.{layer}")
}

/// The layers of so many parts, at least one in each: the largest part reads as few bytes as
/// possible, and then sizes differ as little as possible.
pub fn cut(weights: &ModelWeights, parts: usize) -> Vec<Range<usize>> {
    let all_layers = weights.layers.len();
    let mut before = vec![0];
    for n in 0..all_layers {
        let part = ModelPart { stage: None, layers: n..n + 1, all_layers };
        let bytes: u64 = part.weights(weights).map(Weight::bytes).sum();
        before.push(before[n] + u128::from(bytes));
    }
    let bytes = |start: usize, end: usize| before[end] - before[start];
    let (largest, _) = optimum(parts, all_layers, u128::max, |start, end| Some(bytes(start, end)));
    let square = |bytes: u128| (bytes <= largest).then(|| bytes.saturating_mul(bytes));
    let squares = |start, end| square(bytes(start, end));
    let (_, ends) = optimum(parts, all_layers, u128::saturating_add, squares);
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| start..*end).collect()
}

/// The least joint cost of parts of layers, and where these parts end. `None` forbids a part.
fn optimum(
    parts: usize,
    layers: usize,
    join: fn(u128, u128) -> u128,
    cost: impl Fn(usize, usize) -> Option<u128>,
) -> (u128, Vec<usize>) {
    // By the layers that the parts so far have.
    let mut best = vec![None; layers + 1];
    best[0] = Some((0, Vec::new()));
    for _ in 0..parts {
        let extended = (0..=layers).map(|end| {
            let costs = (0..end).filter_map(|start| {
                let (before, ends): &(u128, Vec<usize>) = best[start].as_ref()?;
                Some((join(*before, cost(start, end)?), ends))
            });
            let (cost, ends) = costs.min_by_key(|(cost, _)| *cost)?;
            Some((cost, [ends, &[end][..]].concat()))
        });
        best = extended.collect();
    }
    best.pop().flatten().expect("as many layers as parts, or more")
}
