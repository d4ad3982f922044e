//! The weights of a model under canonical names, whatever the layout.
//!
//! Names are paths that agree with those in the graph. A matrix is stored
//! `[out, in]`, one output a row.

use super::{Config, Result};
use crate::tensor::mxfp4;
use crate::weights::Weight;

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `embedding.weight [vocab, hidden]`
    pub embedding: Weight,
    /// One entry for each layer.
    pub layers: Vec<LayerWeights>,
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// `lm_head.weight [vocab, hidden]`
    pub lm_head: Weight,
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
    /// `qkv [(heads + 2·kv)·D, hidden]`: rows of all q heads, then k, then v.
    pub qkv: Linear,
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
    /// `bias [out]`
    pub bias: Weight,
}

/// A matrix and bias for each expert, in MXFP4 along `in`.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// `blocks [experts, out, in/32, 16]`
    pub blocks: Weight,
    /// `scales [experts, out, in/32]`
    pub scales: Weight,
    /// `bias [experts, out]`
    pub bias: Weight,
}

/// What a weight must be; a layout finds it.
pub struct Spec {
    /// Canonical name.
    pub name: String,
    /// What its elements are.
    pub kind: Kind,
    /// Shape by the config.
    pub shape: Vec<u64>,
}

/// What the elements of a weight are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers in one of the formats that the graph casts.
    Dense,
    /// MXFP4 codes, two a byte.
    Blocks,
    /// MXFP4 scales.
    Scales,
}

impl ModelWeights {
    /// Asks `find` for every weight of a model of this config.
    pub fn assemble(config: &Config, find: &mut dyn FnMut(Spec) -> Result<Weight>) -> Result<Self> {
        let [vocab, hidden] = [config.vocab_size, config.hidden_size];
        let layer = |n, find: &mut dyn FnMut(Spec) -> Result<Weight>| {
            LayerWeights::assemble(config, n, find)
        };
        Ok(Self {
            embedding: find(dense("embedding.weight", [vocab, hidden]))?,
            layers: (0..config.num_layers()).map(|n| layer(n, find)).collect::<Result<_>>()?,
            norm: find(dense("norm.scale", [hidden]))?,
            lm_head: find(dense("lm_head.weight", [vocab, hidden]))?,
        })
    }

    /// Every weight, in the order in which the model uses them.
    pub fn iter(&self) -> impl Iterator<Item = &Weight> {
        let layers = self.layers.iter().flat_map(LayerWeights::iter);
        [&self.embedding].into_iter().chain(layers).chain([&self.norm, &self.lm_head])
    }
}

impl LayerWeights {
    fn assemble(
        config: &Config,
        layer: usize,
        find: &mut dyn FnMut(Spec) -> Result<Weight>,
    ) -> Result<Self> {
        let [hidden, inner, experts] =
            [config.hidden_size, config.intermediate_size, config.num_experts];
        let query = config.num_heads * config.head_dim;
        let qkv = query + 2 * config.num_kv_heads * config.head_dim;
        let (attn, mlp) = (format!("layers.{layer}.attn"), format!("layers.{layer}.mlp"));
        Ok(Self {
            attn: AttentionWeights {
                norm: find(dense(format!("{attn}.norm.scale"), [hidden]))?,
                qkv: Linear::assemble(&format!("{attn}.qkv"), qkv, hidden, find)?,
                sinks: find(dense(format!("{attn}.sinks"), [config.num_heads]))?,
                out: Linear::assemble(&format!("{attn}.out"), hidden, query, find)?,
            },
            mlp: MlpWeights {
                norm: find(dense(format!("{mlp}.norm.scale"), [hidden]))?,
                router: Linear::assemble(&format!("{mlp}.router"), experts, hidden, find)?,
                gate_up: ExpertWeights::assemble(
                    &format!("{mlp}.experts.gate_up"),
                    [experts, 2 * inner, hidden],
                    find,
                )?,
                down: ExpertWeights::assemble(
                    &format!("{mlp}.experts.down"),
                    [experts, hidden, inner],
                    find,
                )?,
            },
        })
    }

    fn iter(&self) -> impl Iterator<Item = &Weight> {
        let LayerWeights { attn, mlp } = self;
        let attn = [
            &attn.norm,
            &attn.qkv.weight,
            &attn.qkv.bias,
            &attn.sinks,
            &attn.out.weight,
            &attn.out.bias,
        ];
        let experts =
            [&mlp.gate_up, &mlp.down].into_iter().flat_map(|e| [&e.blocks, &e.scales, &e.bias]);
        attn.into_iter().chain([&mlp.norm, &mlp.router.weight, &mlp.router.bias]).chain(experts)
    }
}

impl Linear {
    fn assemble(
        path: &str,
        out: u64,
        inn: u64,
        find: &mut dyn FnMut(Spec) -> Result<Weight>,
    ) -> Result<Self> {
        Ok(Self {
            weight: find(dense(format!("{path}.weight"), [out, inn]))?,
            bias: find(dense(format!("{path}.bias"), [out]))?,
        })
    }
}

impl ExpertWeights {
    fn assemble(
        path: &str,
        [experts, out, inn]: [u64; 3],
        find: &mut dyn FnMut(Spec) -> Result<Weight>,
    ) -> Result<Self> {
        let groups = inn / mxfp4::BLOCK;
        let blocks = vec![experts, out, groups, mxfp4::BLOCK / 2];
        let scales = vec![experts, out, groups];
        Ok(Self {
            blocks: find(Spec {
                name: format!("{path}.blocks"),
                kind: Kind::Blocks,
                shape: blocks,
            })?,
            scales: find(Spec {
                name: format!("{path}.scales"),
                kind: Kind::Scales,
                shape: scales,
            })?,
            bias: find(dense(format!("{path}.bias"), [experts, out]))?,
        })
    }
}

fn dense<const N: usize>(name: impl Into<String>, shape: [u64; N]) -> Spec {
    Spec { name: name.into(), kind: Kind::Dense, shape: shape.to_vec() }
}
