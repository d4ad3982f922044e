//! The quantities of the model's definition, and where their values are.

use ndarray::Slice;

use super::matrix::StoredMatrix;

/// Everything that a forward pass needs.
#[derive(Debug)]
pub struct ReferenceModel {
    pub numbers: Hyperparameters,
    /// `[vocab, hidden]`, of which tokens choose rows, without a bias.
    pub embedding: LinearMap,
    pub layers: Vec<LayerMatrices>,
    pub norm: StoredMatrix,
    /// `[vocab, hidden]`, without a bias.
    pub lm_head: LinearMap,
}

/// The numbers of the definition that are not weights.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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

/// `x · Wᵀ + b`, and what adapters add.
#[derive(Clone, Debug, Default)]
pub struct LinearMap {
    /// The rows of `W [out, in]`, in one matrix or in several.
    pub weights: Vec<StoredMatrix>,
    /// The same of `b`, in as many parts or in others; none if there is no bias.
    pub biases: Vec<StoredMatrix>,
    /// Whether the rows of several matrices alternate; otherwise one comes after the other.
    pub alternates: bool,
    /// Rows in the place of those of `W`.
    pub new_rows: Vec<RowsOfTokens>,
    pub terms: Vec<AdapterTerm>,
}

/// Rows of some tokens in the embedding or lm_head.
#[derive(Clone, Debug)]
pub struct RowsOfTokens {
    pub tokens: Vec<usize>,
    /// `[tokens, hidden]`
    pub rows: StoredMatrix,
}

/// `s · (x · Wᵀ + b)` with `W = B · A`, or `W = (B · A)ᵀ` if it is transposed.
#[derive(Clone, Debug)]
pub struct AdapterTerm {
    /// `s`
    pub scale: f64,
    /// `[r, in]`, transposed `[r, out]`
    pub a: StoredMatrix,
    /// `[out, r]`, transposed `[in, r]`, in some columns
    pub b: StoredMatrix,
    /// Which columns of `b`: of all experts those of one.
    pub columns: Slice,
    pub is_transposed: bool,
    /// `[1, out]`
    pub bias: Option<StoredMatrix>,
    /// The outputs of the linear map to which it is added.
    pub outputs: Slice,
}

#[derive(Debug)]
pub struct Expert {
    /// Even outputs are gate, odd ones up.
    pub gate_up: LinearMap,
    pub down: LinearMap,
}

impl AdapterTerm {
    /// What remains to be added once `W` has the product: the bias, as a term of rank 0.
    pub fn without_product(self) -> Self {
        let a = StoredMatrix { rows: 0, ..self.a };
        Self { a, columns: (0..0).into(), ..self }
    }
}

impl ReferenceModel {
    /// All of its linear maps.
    pub fn linear_maps(&self) -> impl Iterator<Item = &LinearMap> {
        let layers = self.layers.iter().flat_map(LayerMatrices::linear_maps);
        [&self.embedding, &self.lm_head].into_iter().chain(layers)
    }

    /// All other values.
    pub fn vectors(&self) -> impl Iterator<Item = &StoredMatrix> {
        [&self.norm].into_iter().chain(self.layers.iter().flat_map(LayerMatrices::vectors))
    }
}

impl LayerMatrices {
    fn linear_maps(&self) -> impl Iterator<Item = &LinearMap> {
        let experts = self.experts.iter().flat_map(|expert| [&expert.gate_up, &expert.down]);
        [&self.qkv, &self.out, &self.router].into_iter().chain(experts)
    }

    fn vectors(&self) -> [&StoredMatrix; 3] {
        [&self.attention_norm, &self.sinks, &self.experts_norm]
    }

    /// Bytes in files.
    pub fn bytes(&self) -> u64 {
        let linear = self.linear_maps();
        let matrices = linear.flat_map(|linear| linear.weights.iter().chain(&linear.biases));
        matrices.chain(self.vectors()).map(StoredMatrix::bytes).sum()
    }
}
