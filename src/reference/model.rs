//! The quantities of the model's definition, and where their values are.

use super::matrix::StoredMatrix;

/// Everything that a forward pass needs.
#[derive(Debug)]
pub struct ReferenceModel {
    pub numbers: Hyperparameters,
    /// `[vocab, hidden]`.
    pub embedding: StoredMatrix,
    pub layers: Vec<LayerMatrices>,
    pub norm: StoredMatrix,
    /// `[vocab, hidden]`, without a bias.
    pub lm_head: LinearMap,
}

/// The numbers of the definition that are not weights.
#[derive(Debug)]
pub struct Hyperparameters {
    pub vocab: u64,
    pub hidden: u64,
    /// Neurons of an expert.
    pub inner: u64,
    pub head_dim: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub experts_per_token: u64,
    /// Keys that a query sees, itself included, in each layer with a window.
    pub windows: Vec<Option<u64>>,
    pub epsilon: f64,
    pub swiglu_limit: f64,
    pub theta: f64,
    pub yarn: Option<Yarn>,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the embedding is lm_head.
    pub is_tied: bool,
}

/// How positions are stretched.
#[derive(Debug)]
pub struct Yarn {
    pub factor: f64,
    /// Pairs that turn so often within the original context keep their frequency.
    pub fast: f64,
    /// Frequencies of those that turn less often than this are divided by the factor.
    pub slow: f64,
    /// Tokens of the original context.
    pub context: f64,
}

#[derive(Debug)]
pub struct LayerMatrices {
    pub attention_norm: StoredMatrix,
    /// Queries of all heads, then keys, then values.
    pub qkv: LinearMap,
    /// A score for each head.
    pub sinks: StoredMatrix,
    pub out: LinearMap,
    pub experts_norm: StoredMatrix,
    pub router: LinearMap,
    pub experts: Vec<Expert>,
}

/// `x · Wᵀ + b`.
#[derive(Debug, Default)]
pub struct LinearMap {
    /// The rows of `W [out, in]`, in one matrix or one after the other in several.
    pub weights: Vec<StoredMatrix>,
    /// The same of `b`, in as many parts or in others; none if there is no bias.
    pub biases: Vec<StoredMatrix>,
}

#[derive(Debug)]
pub struct Expert {
    /// Weights are one matrix whose even rows are gate and whose odd rows are up, or one for
    /// gate and one for up; so are biases.
    pub gate_up: LinearMap,
    pub down: LinearMap,
}

impl LayerMatrices {
    /// Bytes in files.
    pub fn bytes(&self) -> u64 {
        let experts = self.experts.iter().flat_map(|expert| [&expert.gate_up, &expert.down]);
        let linear = [&self.qkv, &self.out, &self.router].into_iter().chain(experts);
        let matrices = linear.flat_map(|linear| linear.weights.iter().chain(&linear.biases));
        let vectors = [&self.attention_norm, &self.sinks, &self.experts_norm];
        matrices.chain(vectors).map(StoredMatrix::bytes).sum()
    }
}
