//! The canonical weights of a model of some config: which there are, and what
//! each must be. A layout finds them.

use super::weights::{AttentionWeights, ExpertWeights, Linear, MlpWeights};
use super::{Config, LayerWeights, ModelWeights, Result};
use crate::tensor::mxfp4;
use crate::weights::{ExpertMatrix, Weight};

/// What layouts store in different forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether q, k and v are matrices of their own.
    pub separate_qkv: bool,
    /// How the experts are stored.
    pub experts: ExpertForm,
}

/// How the experts of all layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertForm {
    /// Blocks and scales.
    Mxfp4,
    /// Numbers, `[experts, out, in]`.
    OutputMajor,
    /// Numbers, `[experts, in, out]`.
    InputMajor,
}

/// What a weight must be.
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
    /// The same, or FP8: an expert's numbers.
    Expert,
    /// MXFP4 codes, two a byte.
    Blocks,
    /// MXFP4 scales.
    Scales,
}

/// Asks for every weight of a model.
pub struct Assembly<'a> {
    /// The model's sizes.
    pub config: &'a Config,
    /// The form in which its weights are there.
    pub form: Form,
    /// Finds a weight.
    pub find: &'a mut dyn FnMut(Spec) -> Result<Weight>,
}

impl Assembly<'_> {
    /// All weights.
    pub fn model(&mut self) -> Result<ModelWeights> {
        let [vocab, hidden] = [self.config.vocab_size, self.config.hidden_size];
        Ok(ModelWeights {
            embedding: self.dense("embedding.weight", &[vocab, hidden])?,
            layers: (0..self.config.num_layers()).map(|n| self.layer(n)).collect::<Result<_>>()?,
            norm: self.dense("norm.scale", &[hidden])?,
            lm_head: match self.config.tied {
                true => None,
                false => Some(self.dense("lm_head.weight", &[vocab, hidden])?),
            },
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
        let parts = match self.form.separate_qkv {
            true => vec![("q", query), ("k", key), ("v", key)],
            false => vec![("qkv", query + 2 * key)],
        };
        let mut linear =
            |name: &str, shape| self.linear(&format!("{path}.{name}"), shape, attention_bias);
        let qkv = parts.into_iter().map(|(name, rows)| linear(name, [rows, hidden_size]));
        let qkv = qkv.collect::<Result<_>>()?;
        Ok(AttentionWeights {
            qkv,
            out: linear("out", [hidden_size, query])?,
            norm: self.dense(&format!("{path}.norm.scale"), &[hidden_size])?,
            sinks: self.dense(&format!("{path}.sinks"), &[num_heads])?,
        })
    }

    fn mlp(&mut self, path: &str, num_experts: u64) -> Result<MlpWeights> {
        let Config { hidden_size, intermediate_size, .. } = *self.config;
        let experts = format!("{path}.experts");
        Ok(MlpWeights {
            norm: self.dense(&format!("{path}.norm.scale"), &[hidden_size])?,
            router: self.linear(&format!("{path}.router"), [num_experts, hidden_size], true)?,
            gate_up: self.experts(
                &format!("{experts}.gate_up"),
                [num_experts, 2 * intermediate_size, hidden_size],
            )?,
            down: self.experts(
                &format!("{experts}.down"),
                [num_experts, hidden_size, intermediate_size],
            )?,
        })
    }

    fn experts(&mut self, path: &str, [experts, out, inn]: [u64; 3]) -> Result<ExpertWeights> {
        let form = self.form.experts;
        let mut find =
            |part: &str, kind, shape: &[u64]| self.weight(&format!("{path}.{part}"), kind, shape);
        let (groups, bytes) = (inn / mxfp4::BLOCK, mxfp4::BLOCK / 2);
        let matrix = match form {
            ExpertForm::Mxfp4 => ExpertMatrix::Mxfp4 {
                blocks: find("blocks", Kind::Blocks, &[experts, out, groups, bytes])?,
                scales: find("scales", Kind::Scales, &[experts, out, groups])?,
            },
            ExpertForm::OutputMajor => {
                ExpertMatrix::OutputMajor(find("weight", Kind::Expert, &[experts, out, inn])?)
            }
            ExpertForm::InputMajor => {
                ExpertMatrix::InputMajor(find("weight_t", Kind::Expert, &[experts, inn, out])?)
            }
        };
        Ok(ExpertWeights { matrix, bias: find("bias", Kind::Dense, &[experts, out])? })
    }

    fn linear(&mut self, path: &str, shape: [u64; 2], bias: bool) -> Result<Linear> {
        let weight = self.dense(&format!("{path}.weight"), &shape)?;
        let bias = match bias {
            true => Some(self.dense(&format!("{path}.bias"), &shape[..1])?),
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    fn dense(&mut self, name: &str, shape: &[u64]) -> Result<Weight> {
        self.weight(name, Kind::Dense, shape)
    }

    fn weight(&mut self, name: &str, kind: Kind, shape: &[u64]) -> Result<Weight> {
        (self.find)(Spec { name: name.to_owned(), kind, shape: shape.to_vec() })
    }
}
