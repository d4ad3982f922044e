//! The canonical weights of a model of some config: which there are, and what
//! each must be. A layout finds them.

use super::weights::{AttentionWeights, ExpertWeights, LM_HEAD, Linear, MlpWeights};
use super::{Config, LayerWeights, ModelWeights, Result};
use crate::tensor::ints::Bits;
use crate::tensor::mxfp4;
use crate::weights::{Matrix, Weight};

/// What layouts store in different forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether q, k and v are matrices of their own.
    pub separate_qkv: bool,
    /// How the matrices of experts are stored, those of all layers.
    pub experts: MatrixForm,
    /// How those of attention are.
    pub attention: MatrixForm,
    /// How that of the logits is; where there is none, it is the embedding.
    pub logits: Option<MatrixForm>,
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixForm {
    /// MXFP4's blocks and scales.
    Mxfp4,
    /// The same by columns, for CUDA.
    Mxfp4Columns,
    /// Integers and scales.
    Ints(Bits),
    /// Numbers, `[.., out, in]`.
    OutputMajor,
    /// Numbers, `[experts, in, out]`.
    InputMajor,
}

impl MatrixForm {
    /// Whether rows consist of blocks of 32.
    pub fn has_blocks(self) -> bool {
        !matches!(self, Self::OutputMajor | Self::InputMajor)
    }
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
    /// Integers, one or two a byte.
    Codes,
    /// Their scales.
    CodeScales,
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
            lm_head: match self.form.logits {
                None if self.config.tied => None,
                form => {
                    let form = form.unwrap_or(MatrixForm::OutputMajor);
                    Some(self.matrix(LM_HEAD, form, Kind::Dense, &[], [vocab, hidden])?)
                }
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
        let form = self.form.attention;
        let mut linear =
            |name: &str, shape| self.linear(&format!("{path}.{name}"), form, shape, attention_bias);
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
            router: self.linear(
                &format!("{path}.router"),
                MatrixForm::OutputMajor,
                [num_experts, hidden_size],
                true,
            )?,
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
        Ok(ExpertWeights {
            matrix: self.matrix(path, form, Kind::Expert, &[experts], [out, inn])?,
            bias: self.dense(&format!("{path}.bias"), &[experts, out])?,
        })
    }

    fn linear(
        &mut self,
        path: &str,
        form: MatrixForm,
        [out, inn]: [u64; 2],
        bias: bool,
    ) -> Result<Linear> {
        let matrix = self.matrix(path, form, Kind::Dense, &[], [out, inn])?;
        let bias = match bias {
            true => Some(self.dense(&format!("{path}.bias"), &[out])?),
            false => None,
        };
        Ok(Linear { matrix, bias })
    }

    /// A matrix `[out, in]`, or as many as there are `above`; `numbers` says which
    /// numbers there may be where it is not coded.
    fn matrix(
        &mut self,
        path: &str,
        form: MatrixForm,
        numbers: Kind,
        above: &[u64],
        [out, inn]: [u64; 2],
    ) -> Result<Matrix> {
        let groups = inn / mxfp4::BLOCK;
        let mut find = |part: &str, kind, axes: &[u64]| {
            self.weight(&format!("{path}.{part}"), kind, &[above, axes].concat())
        };
        Ok(match form {
            MatrixForm::Mxfp4 => Matrix::Mxfp4 {
                blocks: find("blocks", Kind::Blocks, &[out, groups, mxfp4::BLOCK / 2])?,
                scales: find("scales", Kind::Scales, &[out, groups])?,
            },
            MatrixForm::Mxfp4Columns => Matrix::Mxfp4Columns {
                columns: find("columns", Kind::Blocks, &[inn, out / 2])?,
                scales: find("scales", Kind::Scales, &[out, groups])?,
            },
            MatrixForm::Ints(bits) => Matrix::Ints {
                bits,
                codes: find("codes", Kind::Codes, &[out, groups, bits.block_bytes()])?,
                scales: find("scales", Kind::CodeScales, &[out, groups])?,
            },
            MatrixForm::OutputMajor => Matrix::OutputMajor(find("weight", numbers, &[out, inn])?),
            MatrixForm::InputMajor => Matrix::InputMajor(find("weight_t", numbers, &[inn, out])?),
        })
    }

    fn dense(&mut self, name: &str, shape: &[u64]) -> Result<Weight> {
        self.weight(name, Kind::Dense, shape)
    }

    fn weight(&mut self, name: &str, kind: Kind, shape: &[u64]) -> Result<Weight> {
        (self.find)(Spec { name: name.to_owned(), kind, shape: shape.to_vec() })
    }
}
