//! The weights of a model under canonical names, whatever the layout. Names are paths
//! that agree with those in the graph.

use std::mem;
use std::ops::Range;

use crate::error::{Error, Result, Setting, err};
use crate::tensor::DType;
use crate::weights::{Changes, FormatSet, Matrix, MatrixFormat, PerRole, Role, Slot, Weight};

#[derive(Clone, Debug)]
pub struct ModelWeights {
    pub embedding: Embedding,
    pub layers: Vec<LayerWeights>,
    /// `norm.scale [hidden]`
    pub norm: Weight,
    /// `lm_head [vocab, hidden]`; `None` if it is tied to the embedding.
    pub lm_head: Option<Linear>,
}

#[derive(Clone, Debug)]
pub struct Embedding {
    /// `embedding.weight [vocab, hidden]`
    pub weight: Weight,
    pub changes: Changes,
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
    pub changes: Changes,
}

#[derive(Clone, Debug)]
pub struct ExpertWeights {
    pub matrix: Matrix,
    /// `bias [experts, out]`
    pub bias: Weight,
    pub changes: Changes,
}

pub const LM_HEAD: &str = "lm_head";

impl ModelWeights {
    /// Every weight, in the order in which the model uses them.
    pub fn iter(&self) -> impl Iterator<Item = &Weight> + Clone {
        let layers = self.layers.iter().flat_map(LayerWeights::iter);
        let lm_head = self.lm_head.iter().flat_map(Linear::iter);
        let Embedding { weight, changes } = &self.embedding;
        let embedding = [weight].into_iter().chain(changes.weights());
        embedding.chain(layers).chain([&self.norm]).chain(lm_head)
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
            let matrix = tied.matrix.converted(LM_HEAD, role, to.for_lm_head(), accept_rounding)?;
            let differs = matrix != tied.matrix;
            self.lm_head = differs.then_some(Linear { matrix, ..tied });
        }
        Ok(())
    }

    /// Replaces bf16: in experts and dense matrices by the dtype of their products, f16 or f32,
    /// elsewhere by f32.
    pub fn replace_bf16(&mut self, of_products: DType) -> Result<()> {
        let to = MatrixFormat::Float(of_products);
        for role in Role::ALL {
            for matrix in self.matrices_mut(role).filter(|it| it.is_bf16()) {
                *matrix = matrix.converted(&matrix.path, role, to, true)?;
            }
        }
        for LayerWeights { mlp, .. } in &mut self.layers {
            let Matrix { format, parts, .. } = &mut mlp.router.matrix;
            parts.iter_mut().try_for_each(Weight::widen)?;
            *format = format.with_dtype(parts[0].dtype);
        }
        self.vectors_mut().try_for_each(Weight::widen)?;
        self.embedding.weight.widen()?;
        let widen = |it: &mut Changes| it.weights_mut().try_for_each(Weight::widen);
        widen(&mut self.embedding.changes)?;
        self.linears_mut().try_for_each(|it| widen(&mut it.changes))?;
        self.experts_mut().try_for_each(|it| widen(&mut it.changes))
    }

    /// Folds all changes into the values. The matrices of a role get the format that it is given;
    /// routers, the embedding and biases become f32.
    pub fn merge(&mut self, to: &PerRole<MatrixFormat>, accept_rounding: bool) -> Result<()> {
        let merge =
            |matrix: &mut Matrix, changes: &mut Changes, role: Option<Role>| -> Result<()> {
                let changes = mem::take(changes);
                if !changes.is_empty() {
                    let to = role.map_or(MatrixFormat::Float(DType::F32), |role| to[role]);
                    let to = if matrix.path == LM_HEAD { to.for_lm_head() } else { to };
                    *matrix = matrix.merged(&changes, role, to, accept_rounding)?;
                }
                Ok(())
            };
        for Linear { matrix, bias, changes } in self.linears_mut() {
            if changes.add_bias() {
                let bias = bias.as_mut().ok_or_else(|| without_bias(&matrix.path))?;
                *bias = bias.merged_bias(changes)?;
            }
            let is_router = matrix.path.ends_with(".router");
            merge(matrix, changes, (!is_router).then_some(Role::Dense))?;
        }
        for ExpertWeights { matrix, bias, changes } in self.experts_mut() {
            if changes.add_bias() {
                *bias = bias.merged_bias(changes)?;
            }
            merge(matrix, changes, Some(Role::Experts))?;
        }
        let Embedding { weight, changes } = &mut self.embedding;
        let mut table = Matrix::from_weight("embedding", weight);
        merge(&mut table, changes, None)?;
        weight.clone_from(table.whole());
        Ok(())
    }

    /// The matrices of a role: two for each layer's experts, or those of attention and
    /// lm_head unless it is tied.
    pub fn matrices(&self, role: Role) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|LayerWeights { attn, mlp }| {
            let attention = attn.qkv.iter().chain([&attn.out]).map(|it| &it.matrix);
            attention.chain([&mlp.gate_up.matrix, &mlp.down.matrix])
        });
        let lm_head = self.lm_head.iter().map(|it| &it.matrix);
        layers.chain(lm_head).filter(move |it| has_role(it, role))
    }

    fn matrices_mut(&mut self, role: Role) -> impl Iterator<Item = &mut Matrix> {
        let layers = self.layers.iter_mut().flat_map(|LayerWeights { attn, mlp }| {
            let attention = attn.qkv.iter_mut().chain([&mut attn.out]).map(|it| &mut it.matrix);
            attention.chain([&mut mlp.gate_up.matrix, &mut mlp.down.matrix])
        });
        let lm_head = self.lm_head.iter_mut().map(|it| &mut it.matrix);
        layers.chain(lm_head).filter(move |it| has_role(it, role))
    }

    pub fn formats(&self, role: Role) -> FormatSet {
        self.matrices(role).map(|matrix| matrix.format).collect()
    }

    /// lm_head `[vocab, hidden]`, or the embedding if they are tied.
    pub fn lm_head(&self) -> Linear {
        let tied = || Matrix::from_weight("embedding", &self.embedding.weight).into();
        self.lm_head.clone().unwrap_or_else(tied)
    }

    /// Takes fused matrices of attention apart, so that q, k and v are parts by themselves:
    /// matrices of `query`, `key` and again `key` rows, which are ranges of the same bytes.
    pub fn split_qkv(&mut self, query: u64, key: u64) {
        for (n, LayerWeights { attn, .. }) in self.layers.iter_mut().enumerate() {
            let [fused] = &attn.qkv[..] else { continue };
            let ends = [query, query + key, query + 2 * key];
            let part = |(name, (start, end))| {
                fused.rows(&format!("layers.{n}.attn.{name}"), &(start..end))
            };
            let ranges = [0, query, query + key].into_iter().zip(ends);
            attn.qkv = ["q", "k", "v"].into_iter().zip(ranges).map(part).collect();
        }
    }

    /// The changes of every matrix.
    pub fn changes(&self) -> impl Iterator<Item = &Changes> {
        let layers = self.layers.iter().flat_map(|LayerWeights { attn, mlp }| {
            let dense = attn.qkv.iter().chain([&attn.out, &mlp.router]).map(|it| &it.changes);
            dense.chain([&mlp.gate_up.changes, &mlp.down.changes])
        });
        let lm_head = self.lm_head.iter().map(|it| &it.changes);
        [&self.embedding.changes].into_iter().chain(layers).chain(lm_head)
    }

    /// The weight of this name.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.iter().find(|weight| weight.name == name)
    }

    /// What a runtime may change.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.changes().filter_map(|it| it.slot.as_ref())
    }

    /// Attention, routers and lm_head unless it is tied.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let layers = self.layers.iter_mut().flat_map(|LayerWeights { attn, mlp }| {
            attn.qkv.iter_mut().chain([&mut attn.out, &mut mlp.router])
        });
        layers.chain(&mut self.lm_head)
    }

    pub fn experts_mut(&mut self) -> impl Iterator<Item = &mut ExpertWeights> {
        self.layers.iter_mut().flat_map(|it| [&mut it.mlp.gate_up, &mut it.mlp.down])
    }

    /// Norms, sinks and biases.
    pub fn vectors_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        let layers = self.layers.iter_mut().flat_map(|LayerWeights { attn, mlp }| {
            let linears = attn.qkv.iter_mut().chain([&mut attn.out, &mut mlp.router]);
            let others = [&mut attn.norm, &mut attn.sinks, &mut mlp.norm];
            let experts = [&mut mlp.gate_up.bias, &mut mlp.down.bias];
            linears.flat_map(|it| &mut it.bias).chain(others).chain(experts)
        });
        layers.chain([&mut self.norm])
    }
}

impl From<Matrix> for Linear {
    fn from(matrix: Matrix) -> Self {
        Self { matrix, bias: None, changes: Changes::default() }
    }
}

impl Linear {
    fn iter(&self) -> impl Iterator<Item = &Weight> + Clone {
        self.matrix.parts.iter().chain(&self.bias).chain(self.changes.weights())
    }

    /// Some rows as a layer with another path.
    fn rows(&self, path: &str, rows: &Range<u64>) -> Self {
        let bias = self.bias.as_ref().map(|bias| bias.rows(format!("{path}.bias"), rows));
        Self { bias, ..self.matrix.rows(path, rows).into() }
    }
}

impl MlpWeights {
    /// Whether something changes its experts, or a runtime may.
    pub fn has_changed_experts(&self) -> bool {
        !self.gate_up.changes.is_empty() || !self.down.changes.is_empty()
    }

    /// Whether a runtime may change its experts.
    pub fn has_swappable_experts(&self) -> bool {
        self.gate_up.changes.slot.is_some() || self.down.changes.slot.is_some()
    }
}

fn without_bias(path: &str) -> Error {
    err!("an adapter adds a bias to `{path}`, which has none in the base: it cannot be merged, add the adapter inline")
        .with_remedy(Setting::AdapterAs, "inline")
}

fn has_role(matrix: &Matrix, role: Role) -> bool {
    matrix.experts.is_some() == (role == Role::Experts)
}

impl LayerWeights {
    pub fn iter(&self) -> impl Iterator<Item = &Weight> + Clone {
        let Self { attn, mlp } = self;
        let qkv = attn.qkv.iter().flat_map(Linear::iter);
        let attention = [&attn.norm].into_iter().chain(qkv).chain([&attn.sinks]);
        let router = [&mlp.norm].into_iter().chain(mlp.router.iter());
        let experts = [&mlp.gate_up, &mlp.down].into_iter();
        let experts = experts
            .flat_map(|it| it.matrix.parts.iter().chain([&it.bias]).chain(it.changes.weights()));
        attention.chain(attn.out.iter()).chain(router).chain(experts)
    }
}
