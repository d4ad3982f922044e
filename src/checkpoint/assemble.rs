//! The canonical weights of a model with some config: names, kinds and shapes. A layout
//! finds them.

use super::config::Config;
use super::weights::{
    AttentionWeights, ExpertWeights, LM_HEAD, LayerWeights, Linear, MlpWeights, ModelWeights,
};
use crate::error::Result;
use crate::weights::{ElementKind, Matrix, MatrixFormat, Weight};

/// What layouts store differently. Floats may have another dtype than the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Whether q, k and v are matrices of their own.
    pub separate_qkv: bool,
    pub experts: MatrixFormat,
    pub attention: MatrixFormat,
    /// Of lm_head; `None` if the config decides whether the embedding is tied.
    pub lm_head: Option<MatrixFormat>,
}

/// Asks a layout for every weight of a model.
pub struct Assembly<'a> {
    pub config: &'a Config,
    pub storage: Storage,
    /// Finds a weight by its canonical name, and checks it.
    pub find: &'a mut dyn FnMut(String, ElementKind, Vec<u64>) -> Result<Weight>,
}

impl Assembly<'_> {
    pub fn model(&mut self) -> Result<ModelWeights> {
        let [vocab, hidden] = [self.config.vocab_size, self.config.hidden_size];
        let lm_head = self.storage.lm_head.or((!self.config.tied).then_some(PLAIN));
        Ok(ModelWeights {
            embedding: self.vector("embedding.weight", &[vocab, hidden])?,
            layers: (0..self.config.num_layers()).map(|n| self.layer(n)).collect::<Result<_>>()?,
            norm: self.vector("norm.scale", &[hidden])?,
            lm_head: lm_head
                .map(|format| self.matrix(LM_HEAD, format, None, [vocab, hidden]))
                .transpose()?,
        })
    }

    fn layer(&mut self, n: usize) -> Result<LayerWeights> {
        Ok(LayerWeights {
            attn: self.attention(&format!("layers.{n}.attn"))?,
            mlp: self.mlp(&format!("layers.{n}.mlp"), self.config.experts[n])?,
        })
    }

    fn attention(&mut self, path: &str) -> Result<AttentionWeights> {
        let Config { hidden_size, num_heads, num_kv_heads, head_dim, attention_bias, .. } =
            *self.config;
        let (query, key) = (num_heads * head_dim, num_kv_heads * head_dim);
        let parts: &[_] = if self.storage.separate_qkv {
            &[("q", query), ("k", key), ("v", key)]
        } else {
            &[("qkv", query + 2 * key)]
        };
        let format = self.storage.attention;
        let mut linear = |name: &str, sides| {
            self.linear(&format!("{path}.{name}"), format, sides, attention_bias)
        };
        let qkv = parts.iter().map(|(name, rows)| linear(name, [*rows, hidden_size]));
        Ok(AttentionWeights {
            qkv: qkv.collect::<Result<_>>()?,
            out: linear("out", [hidden_size, query])?,
            norm: self.vector(&format!("{path}.norm.scale"), &[hidden_size])?,
            sinks: self.vector(&format!("{path}.sinks"), &[num_heads])?,
        })
    }

    fn mlp(&mut self, path: &str, n: u64) -> Result<MlpWeights> {
        let Config { hidden_size: hidden, intermediate_size: inner, .. } = *self.config;
        Ok(MlpWeights {
            norm: self.vector(&format!("{path}.norm.scale"), &[hidden])?,
            router: self.linear(&format!("{path}.router"), PLAIN, [n, hidden], true)?,
            gate_up: self.experts(&format!("{path}.experts.gate_up"), n, [2 * inner, hidden])?,
            down: self.experts(&format!("{path}.experts.down"), n, [hidden, inner])?,
        })
    }

    fn experts(&mut self, path: &str, experts: u64, sides: [u64; 2]) -> Result<ExpertWeights> {
        Ok(ExpertWeights {
            matrix: self.matrix(path, self.storage.experts, Some(experts), sides)?,
            bias: self.vector(&format!("{path}.bias"), &[experts, sides[0]])?,
        })
    }

    fn linear(
        &mut self,
        path: &str,
        format: MatrixFormat,
        sides: [u64; 2],
        has_bias: bool,
    ) -> Result<Linear> {
        let matrix = self.matrix(path, format, None, sides)?;
        let bias = has_bias.then(|| self.vector(&format!("{path}.bias"), &[sides[0]]));
        Ok(Linear { matrix, bias: bias.transpose()? })
    }

    fn matrix(
        &mut self,
        path: &str,
        format: MatrixFormat,
        experts: Option<u64>,
        sides: [u64; 2],
    ) -> Result<Matrix> {
        Matrix::new(path, format, experts, sides, |(_, part)| {
            let kind = match part.kind {
                ElementKind::Float if experts.is_some() => ElementKind::ExpertFloat,
                kind => kind,
            };
            (self.find)(format!("{path}.{}", part.name), kind, part.shape)
        })
    }

    fn vector(&mut self, name: &str, shape: &[u64]) -> Result<Weight> {
        (self.find)(name.to_owned(), ElementKind::Float, shape.to_vec())
    }
}

/// Floats `[out, in]`, of the dtype that checkpoints usually have.
pub const PLAIN: MatrixFormat = MatrixFormat::Float(crate::tensor::DType::BF16);
/// Floats `[in, out]`.
pub const TRANSPOSED: MatrixFormat = MatrixFormat::FloatTransposed(crate::tensor::DType::BF16);
