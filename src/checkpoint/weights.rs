//! The weights of a model under canonical names, whatever the layout.
//!
//! Names are paths that agree with those in the graph. A matrix is stored
//! `[out, in]`, one output a row.

use crate::weights::{self, AND, Format, Matrix, Role, Weight};

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `embedding.weight [vocab, hidden]`
    pub embedding: Weight,
    /// One entry for each layer.
    pub layers: Vec<LayerWeights>,
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// `lm_head [vocab, hidden]`; without one the embedding serves for both.
    pub lm_head: Option<Matrix>,
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

/// A matrix `[out, in]` and a `bias [out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub matrix: Matrix,
    /// `bias [out]`, where there is one.
    pub bias: Option<Weight>,
}

/// A matrix and bias for each expert.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// The matrices of all experts.
    pub matrix: Matrix,
    /// `bias [experts, out]`
    pub bias: Weight,
}

impl ModelWeights {
    /// Every weight, in the order in which the model uses them.
    pub fn iter(&self) -> impl Iterator<Item = &Weight> {
        let layers = self.layers.iter().flat_map(LayerWeights::iter);
        let lm_head = self.lm_head.iter().flat_map(Matrix::weights);
        [&self.embedding].into_iter().chain(layers).chain([&self.norm]).chain(lm_head)
    }

    /// Puts the experts into a format, [`Matrix::converted`] for each matrix.
    pub fn convert_experts(&mut self, to: Format, accept_rounding: bool) -> Converted {
        for LayerWeights { mlp, .. } in &mut self.layers {
            for ExpertWeights { matrix, .. } in [&mut mlp.gate_up, &mut mlp.down] {
                convert(matrix, Role::Experts, to, accept_rounding)?;
            }
        }
        Ok(())
    }

    /// Puts the matrices of attention into a format, and that of the logits into the
    /// same or, where it needs more than 4 bits for a choice among so many tokens,
    /// into another. Routers and the embedding stay as they are.
    pub fn convert_dense(&mut self, to: Format, accept_rounding: bool) -> Converted {
        for LayerWeights { attn, .. } in &mut self.layers {
            for Linear { matrix, .. } in attn.qkv.iter_mut().chain([&mut attn.out]) {
                convert(matrix, Role::Dense, to, accept_rounding)?;
            }
        }
        let mut lm_head = self.logits();
        convert(&mut lm_head, Role::Dense, to.for_logits(), accept_rounding)?;
        if self.lm_head.is_some() || lm_head != self.logits() {
            self.lm_head = Some(lm_head);
        }
        Ok(())
    }

    /// The matrices of all experts, two for each layer.
    pub fn experts(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.mlp.gate_up, &layer.mlp.down]);
        layers.map(|experts| &experts.matrix)
    }

    /// The matrices of attention, and that of the logits where it is one of its own.
    pub fn dense(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().map(|layer| &layer.attn);
        let linears = layers.flat_map(|attn| attn.qkv.iter().chain([&attn.out]));
        linears.map(|linear| &linear.matrix).chain(&self.lm_head)
    }

    /// All of both, to be changed.
    pub fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let layers = self.layers.iter_mut().flat_map(|LayerWeights { attn, mlp }| {
            let linears = attn.qkv.iter_mut().chain([&mut attn.out]);
            let experts = [&mut mlp.gate_up, &mut mlp.down].into_iter();
            let linears = linears.map(|linear| &mut linear.matrix);
            linears.chain(experts.map(|experts| &mut experts.matrix))
        });
        layers.chain(&mut self.lm_head)
    }

    /// The matrix of the logits, `[vocab, hidden]`.
    pub fn logits(&self) -> Matrix {
        let embedding = || Matrix::OutputMajor(self.embedding.clone());
        self.lm_head.clone().unwrap_or_else(embedding)
    }
}

type Converted = Result<(), weights::Error>;

/// Under the name that it has, or of the embedding that it serves as besides.
fn convert(matrix: &mut Matrix, role: Role, to: Format, accept_rounding: bool) -> Converted {
    let path = match matrix.path() {
        "embedding" => LM_HEAD.to_owned(),
        path => path.to_owned(),
    };
    *matrix = matrix.converted(&path, role, to, accept_rounding)?;
    Ok(())
}

/// The canonical name of the matrix of the logits.
pub const LM_HEAD: &str = "lm_head";

/// The format of the numbers of matrices: in words, where they differ.
pub fn format_of<'m>(matrices: impl Iterator<Item = &'m Matrix>) -> String {
    let mut formats: Vec<String> = matrices.map(Matrix::format).collect();
    formats.sort();
    formats.dedup();
    formats.join(AND)
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
        self.matrix.weights().into_iter().chain(&self.bias)
    }
}

impl ExpertWeights {
    fn iter(&self) -> impl Iterator<Item = &Weight> {
        self.matrix.weights().into_iter().chain([&self.bias])
    }
}
