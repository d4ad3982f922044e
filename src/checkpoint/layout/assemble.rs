//! The canonical weights of a model with some config: names, kinds and shapes, taken from
//! the tensors of a layout.

use super::sizes::axes;
use super::wrong::{Shape, Wrong};
use super::{FLOATS, Form, Layout};
use crate::checkpoint::config::Config;
use crate::checkpoint::names::layer;
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::weights::{
    AttentionWeights, Embedding, ExpertWeights, LM_HEAD, LayerWeights, Linear, MlpWeights,
    ModelWeights,
};
use crate::container::StoredTensor;
use crate::weights::{Changes, ElementKind, Matrix, Recipe, Weight};

pub struct Assembly<'a> {
    pub layout: Layout,
    pub config: &'a Config,
    pub tensors: &'a mut Tensors,
    /// The form of experts without tensors.
    pub usual: &'static Form,
    /// What is wrong with stored tensors.
    pub wrong: Wrong,
}

/// What to do about a dtype.
const READ: &str = "export a checkpoint with tensors in BF16, F16 or F32, and experts in one of these, MXFP4 or F8_E5M2";

impl Assembly<'_> {
    /// The weights. They are not usable if a tensor was missing or wrong.
    pub fn model(&mut self) -> ModelWeights {
        let [vocab, hidden] = [self.config.vocab_size, self.config.hidden_size];
        let has_lm_head = !self.config.tied
            || self.layout.unties
                && self.layout.form(self.layout.dense, LM_HEAD, self.tensors).is_some();
        let weight = self.vector("embedding.weight", &[vocab, hidden]);
        let embedding = Embedding { weight, changes: Changes::default() };
        let mut layers = Vec::new();
        for n in 0..self.config.num_layers() {
            if self.tensors.lacks_most() {
                break;
            }
            layers.push(LayerWeights { attn: self.attention(n), mlp: self.mlp(n) });
        }
        let norm = self.vector("norm.scale", &[hidden]);
        let lm_head = has_lm_head.then(|| self.dense(LM_HEAD, &[vocab, hidden]).into());
        ModelWeights { embedding, layers, norm, lm_head }
    }

    fn attention(&mut self, n: usize) -> AttentionWeights {
        let path = format!("layers.{n}.attn");
        let Config { hidden_size, num_heads, num_kv_heads, head_dim, attention_bias, .. } =
            *self.config;
        let (query, key) = (num_heads * head_dim, num_kv_heads * head_dim);
        let parts: &[_] = if self.layout.separate_qkv {
            &[("q", query), ("k", key), ("v", key)]
        } else {
            &[("qkv", query + 2 * key)]
        };
        let mut linear = |name: &str, sides: [u64; 2]| -> Linear {
            let path = format!("{path}.{name}");
            let matrix = self.dense(&path, &sides);
            let bias = attention_bias.then(|| self.vector(&format!("{path}.bias"), &sides[..1]));
            Linear { bias, ..matrix.into() }
        };
        let qkv = parts.iter().map(|(name, rows)| linear(name, [*rows, hidden_size])).collect();
        AttentionWeights {
            qkv,
            out: linear("out", [hidden_size, query]),
            norm: self.vector(&format!("{path}.norm.scale"), &[hidden_size]),
            sinks: self.vector(&format!("{path}.sinks"), &[num_heads]),
        }
    }

    fn mlp(&mut self, n: usize) -> MlpWeights {
        let (path, count) = (format!("layers.{n}.mlp"), self.config.experts[n]);
        let Config { hidden_size: hidden, intermediate_size: inner, .. } = *self.config;
        let norm = self.vector(&format!("{path}.norm.scale"), &[hidden]);
        let router = self.matrix(&format!("{path}.router"), &FLOATS, &[count, hidden]);
        let bias = Some(self.vector(&format!("{path}.router.bias"), &[count]));
        MlpWeights {
            norm,
            router: Linear { bias, ..router.into() },
            gate_up: self.experts(&format!("{path}.experts.gate_up"), &[count, 2 * inner, hidden]),
            down: self.experts(&format!("{path}.experts.down"), &[count, hidden, inner]),
        }
    }

    fn experts(&mut self, path: &str, shape: &[u64]) -> ExpertWeights {
        let form = self.layout.form(self.layout.experts, path, self.tensors).unwrap_or(self.usual);
        let bias = (format!("{path}.bias"), ElementKind::Float, shape[..2].to_vec());
        let matrix = self.matrix(path, form, shape);
        ExpertWeights { matrix, bias: self.weight(bias, form), changes: Changes::default() }
    }

    fn dense(&mut self, path: &str, shape: &[u64]) -> Matrix {
        let forms = self.layout.dense;
        let form = self.layout.form(forms, path, self.tensors).unwrap_or(&forms[0]);
        self.matrix(path, form, shape)
    }

    /// A matrix `[out, in]`, or one for each expert.
    fn matrix(&mut self, path: &str, form: &Form, shape: &[u64]) -> Matrix {
        let (experts, sides) = shape.split_last_chunk().expect("two sides");
        let matrix = Matrix::new(path, form.format, experts.first().copied(), *sides, |(_, it)| {
            Ok(self.weight((format!("{path}.{}", it.name), it.kind, it.shape), form))
        });
        matrix.expect("weights without errors")
    }

    fn vector(&mut self, name: &str, shape: &[u64]) -> Weight {
        self.weight((name.to_owned(), ElementKind::Float, shape.to_vec()), &FLOATS)
    }

    /// Takes the tensors of a weight, which must have the dtype and shape that it needs.
    fn weight(
        &mut self,
        (name, kind, shape): (String, ElementKind, Vec<u64>),
        form: &Form,
    ) -> Weight {
        let sources = self.layout.sources(&name, form.names, self.tensors);
        let (mut expected, mut axes) = (shape.clone(), axes(&name).unwrap_or_default());
        if sources.is_split() {
            expected.remove(0);
            axes.drain(..1.min(axes.len()));
        }
        if sources.alternate() {
            let out = usize::from(!sources.is_split());
            expected[out] /= 2;
            axes.iter_mut().skip(out).take(1).for_each(|axis| *axis = axis.halved());
        }
        let (mut first, mut ranges) = (None, Vec::new());
        for (at, tensor) in sources.tensors(shape[0]).enumerate() {
            if at > 0 && self.tensors.lacks_most() {
                break;
            }
            let Some(StoredTensor { name: tensor, dtype, shape: found, data }) =
                self.tensors.take(&tensor, &expected)
            else {
                continue;
            };
            let (first, place) = (*first.get_or_insert(dtype), (tensor, data.file.clone()));
            if !kind.accepts(dtype) {
                let fault = format!("must be {kind}, found {dtype}: {READ}");
                self.wrong.add(fault, place.clone());
            } else if dtype != first {
                let fault = format!(
                    "must be {first} as those of the other experts, found {dtype}: save all in one dtype"
                );
                self.wrong.add(fault, place.clone());
            }
            // Blocks of other elements have other lengths.
            if kind == ElementKind::Mxfp4Blocks && !kind.accepts(dtype) {
                continue;
            }
            // The tensors of single experts have other axes.
            let first_axis = !sources.is_split() && found.first() != expected.first();
            let router = self.router_of(&name).filter(|_| first_axis);
            self.wrong.compare(Shape {
                place,
                layer: layer(&name),
                expected: expected.clone(),
                found,
                axes: axes.clone(),
                router,
            });
            ranges.push(data);
        }
        let dtype = first.unwrap_or_default();
        let recipe = if sources.alternate() {
            let row = dtype.size() * shape[2..].iter().product::<u64>();
            Recipe::InterleaveRows { pairs: ranges.as_chunks().0.to_vec(), row }
        } else if let [_] = ranges[..] {
            Recipe::Slice(ranges.remove(0))
        } else {
            Recipe::Concat(ranges)
        };
        Weight { name, dtype, shape, kind, recipe }
    }

    /// The router whose rows decide the length of a weight's first axis, where layers have
    /// different numbers of experts; elsewhere the config decides.
    fn router_of(&self, name: &str) -> Option<String> {
        let (mlp, _) = name.split_once(".experts.").or_else(|| name.split_once(".router."))?;
        let experts = &self.config.experts;
        let differ = experts.iter().any(|count| *count != experts[0]);
        differ.then(|| self.layout.router(mlp, self.tensors))
    }
}
