//! The weights of a model under canonical names, whatever the layout. Names are paths
//! that agree with those in the graph.

use crate::error::Result;
use crate::weights::{FormatSet, Matrix, MatrixFormat, Role, Weight};

#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `embedding.weight [vocab, hidden]`
    pub embedding: Weight,
    pub layers: Vec<LayerWeights>,
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// `lm_head [vocab, hidden]`; `None` if it is tied to the embedding.
    pub lm_head: Option<Matrix>,
}

#[derive(Clone, Debug)]
pub struct LayerWeights {
    pub attn: AttentionWeights,
    pub mlp: MlpWeights,
}

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

/// A matrix `[out, in]` and a `bias [out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub matrix: Matrix,
    pub bias: Option<Weight>,
}

#[derive(Clone, Debug)]
pub struct ExpertWeights {
    pub matrix: Matrix,
    /// `bias [experts, out]`
    pub bias: Weight,
}

pub const LM_HEAD: &str = "lm_head";

impl ModelWeights {
    /// Every weight, in the order in which the model uses them.
    pub fn iter(&self) -> impl Iterator<Item = &Weight> + Clone {
        let layers = self.layers.iter().flat_map(LayerWeights::iter);
        let lm_head = self.lm_head.iter().flat_map(|it| &it.parts);
        [&self.embedding].into_iter().chain(layers).chain([&self.norm]).chain(lm_head)
    }

    /// Converts the matrices of a role, [`Matrix::converted`]. Routers and the embedding
    /// stay; a tied lm_head becomes a matrix of its own if its format changes.
    pub fn convert(&mut self, role: Role, to: MatrixFormat, accept_rounding: bool) -> Result<()> {
        for matrix in self.matrices_mut(role) {
            let to = if matrix.path == LM_HEAD { to.for_lm_head() } else { to };
            *matrix = matrix.converted(&matrix.path, role, to, accept_rounding)?;
        }
        if role == Role::Dense && self.lm_head.is_none() {
            let tied = self.lm_head();
            let converted = tied.converted(LM_HEAD, role, to.for_lm_head(), accept_rounding)?;
            self.lm_head = Some(converted).filter(|converted| *converted != tied);
        }
        Ok(())
    }

    /// The matrices of a role: two for each layer's experts, or those of attention and
    /// lm_head unless it is tied.
    pub fn matrices(&self, role: Role) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|LayerWeights { attn, mlp }| {
            let attention = attn.qkv.iter().chain([&attn.out]).map(|it| &it.matrix);
            attention.chain([&mlp.gate_up.matrix, &mlp.down.matrix])
        });
        layers.chain(&self.lm_head).filter(move |it| has_role(it, role))
    }

    pub fn matrices_mut(&mut self, role: Role) -> impl Iterator<Item = &mut Matrix> {
        let layers = self.layers.iter_mut().flat_map(|LayerWeights { attn, mlp }| {
            let attention = attn.qkv.iter_mut().chain([&mut attn.out]).map(|it| &mut it.matrix);
            attention.chain([&mut mlp.gate_up.matrix, &mut mlp.down.matrix])
        });
        layers.chain(&mut self.lm_head).filter(move |it| has_role(it, role))
    }

    pub fn formats(&self, role: Role) -> FormatSet {
        self.matrices(role).map(|matrix| matrix.format).collect()
    }

    /// lm_head `[vocab, hidden]`, or the embedding if they are tied.
    pub fn lm_head(&self) -> Matrix {
        let tied = || Matrix::from_weight("embedding", &self.embedding);
        self.lm_head.clone().unwrap_or_else(tied)
    }
}

fn has_role(matrix: &Matrix, role: Role) -> bool {
    matrix.experts.is_some() == (role == Role::Experts)
}

impl LayerWeights {
    pub fn iter(&self) -> impl Iterator<Item = &Weight> + Clone {
        fn linear(it: &Linear) -> impl Iterator<Item = &Weight> + Clone {
            it.matrix.parts.iter().chain(&it.bias)
        }
        let Self { attn, mlp } = self;
        let qkv = attn.qkv.iter().flat_map(linear);
        let attention = [&attn.norm].into_iter().chain(qkv).chain([&attn.sinks]);
        let router = [&mlp.norm].into_iter().chain(linear(&mlp.router));
        let experts = [&mlp.gate_up, &mlp.down].into_iter();
        let experts = experts.flat_map(|it| it.matrix.parts.iter().chain([&it.bias]));
        attention.chain(linear(&attn.out)).chain(router).chain(experts)
    }
}
