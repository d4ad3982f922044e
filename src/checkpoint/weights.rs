//! The weights of a model under canonical names, whatever the layout.
//!
//! Names are paths that agree with those in the graph. A matrix is stored
//! `[out, in]`, one output a row.

use crate::weights::{self, ExpertMatrix, Format, Weight};

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `embedding.weight [vocab, hidden]`
    pub embedding: Weight,
    /// One entry for each layer.
    pub layers: Vec<LayerWeights>,
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// `lm_head.weight [vocab, hidden]`; without one the embedding serves for both.
    pub lm_head: Option<Weight>,
}

/// `layers.N`
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `layers.N.attn`
    pub attn: AttentionWeights,
    /// `layers.N.mlp`
    pub mlp: MlpWeights,
}

/// `layers.N.attn`
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// Rows of all q heads, then k, then v, in one part `qkv [(heads + 2·kv)·D,
    /// hidden]` or in three, `q`, `k` and `v`.
    pub qkv: Vec<Linear>,
    /// `sinks [heads]`
    pub sinks: Weight,
    /// `out [hidden, heads·D]`
    pub out: Linear,
}

/// `layers.N.mlp`
#[derive(Clone, Debug)]
pub struct MlpWeights {
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// `router [experts, hidden]`
    pub router: Linear,
    /// `experts.gate_up [experts, 2·intermediate, hidden]`: even rows gate, odd rows up.
    pub gate_up: ExpertWeights,
    /// `experts.down [experts, hidden, intermediate]`
    pub down: ExpertWeights,
}

/// A matrix `weight [out, in]` and a `bias [out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `weight [out, in]`
    pub weight: Weight,
    /// `bias [out]`, where there is one.
    pub bias: Option<Weight>,
}

/// A matrix and bias for each expert.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// The matrices of all experts.
    pub matrix: ExpertMatrix,
    /// `bias [experts, out]`
    pub bias: Weight,
}

impl ModelWeights {
    /// Every weight, in the order in which the model uses them.
    pub fn iter(&self) -> impl Iterator<Item = &Weight> {
        let layers = self.layers.iter().flat_map(LayerWeights::iter);
        [&self.embedding].into_iter().chain(layers).chain([&self.norm]).chain(&self.lm_head)
    }

    /// Puts the experts into a format, [`ExpertMatrix::converted`] for each
    /// matrix, and says whether that changes anything.
    pub fn convert_experts(
        &mut self,
        to: Format,
        accept_rounding: bool,
    ) -> Result<bool, weights::Error> {
        let mut changes = false;
        for LayerWeights { mlp, .. } in &mut self.layers {
            for ExpertWeights { matrix, .. } in [&mut mlp.gate_up, &mut mlp.down] {
                let converted = matrix.converted(to, accept_rounding)?;
                changes |= converted != *matrix;
                *matrix = converted;
            }
        }
        Ok(changes)
    }

    /// The matrices of all experts, two for each layer.
    pub fn experts(&self) -> impl Iterator<Item = &ExpertMatrix> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.mlp.gate_up, &layer.mlp.down]);
        layers.map(|experts| &experts.matrix)
    }

    /// The format of the experts' numbers: in words, where matrices differ.
    pub fn expert_format(&self) -> String {
        let mut formats: Vec<String> = self.experts().map(ExpertMatrix::format).collect();
        formats.sort();
        formats.dedup();
        formats.join(" and ")
    }

    /// The matrix of the logits, `[vocab, hidden]`.
    pub fn logits(&self) -> &Weight {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }
}

impl LayerWeights {
    /// Every weight of the layer.
    pub fn iter(&self) -> impl Iterator<Item = &Weight> {
        let LayerWeights { attn, mlp } = self;
        let attention = [&attn.norm].into_iter().chain(attn.qkv.iter().flat_map(Linear::iter));
        let attention = attention.chain([&attn.sinks]).chain(attn.out.iter());
        let experts = [&mlp.gate_up, &mlp.down].into_iter().flat_map(ExpertWeights::iter);
        attention.chain([&mlp.norm]).chain(mlp.router.iter()).chain(experts)
    }
}

impl Linear {
    fn iter(&self) -> impl Iterator<Item = &Weight> {
        [&self.weight].into_iter().chain(&self.bias)
    }
}

impl ExpertWeights {
    fn iter(&self) -> impl Iterator<Item = &Weight> {
        self.matrix.weights().into_iter().chain([&self.bias])
    }
}
