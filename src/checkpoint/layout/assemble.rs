//! The canonical weights of a model with some config: names, kinds and shapes, taken from
//! the tensors of a layout.

use super::{Layout, PLAIN, Sources};
use crate::checkpoint::config::Config;
use crate::checkpoint::shards::Tensors;
use crate::checkpoint::weights::{
    AttentionWeights, ExpertWeights, LM_HEAD, LayerWeights, Linear, MlpWeights, ModelWeights,
};
use crate::container::StoredTensor;
use crate::error::{Result, bail, ensure};
use crate::weights::{ElementKind, Matrix, MatrixFormat, Recipe, Weight};

pub struct Assembly<'a> {
    pub layout: Layout,
    pub config: &'a Config,
    pub tensors: &'a mut Tensors,
}

impl Assembly<'_> {
    pub fn model(&mut self) -> Result<ModelWeights> {
        let [vocab, hidden] = [self.config.vocab_size, self.config.hidden_size];
        let lm_head = self.layout.lm_head.or((!self.config.tied).then_some(PLAIN));
        let layers = 0..self.config.num_layers();
        Ok(ModelWeights {
            embedding: self.vector("embedding.weight", &[vocab, hidden])?,
            layers: layers
                .map(|n| Ok(LayerWeights { attn: self.attention(n)?, mlp: self.mlp(n)? }))
                .collect::<Result<_>>()?,
            norm: self.vector("norm.scale", &[hidden])?,
            lm_head: lm_head
                .map(|format| self.matrix(LM_HEAD, format, &[vocab, hidden]))
                .transpose()?,
        })
    }

    fn attention(&mut self, n: usize) -> Result<AttentionWeights> {
        let path = format!("layers.{n}.attn");
        let Config { hidden_size, num_heads, num_kv_heads, head_dim, attention_bias, .. } =
            *self.config;
        let (query, key) = (num_heads * head_dim, num_kv_heads * head_dim);
        let parts: &[_] = if self.layout.separate_qkv {
            &[("q", query), ("k", key), ("v", key)]
        } else {
            &[("qkv", query + 2 * key)]
        };
        let format = self.layout.attention;
        let mut linear = |name: &str, sides: [u64; 2]| -> Result<Linear> {
            let path = format!("{path}.{name}");
            let matrix = self.matrix(&path, format, &sides)?;
            let bias = attention_bias.then(|| self.vector(&format!("{path}.bias"), &sides[..1]));
            Ok(Linear { matrix, bias: bias.transpose()? })
        };
        let qkv = parts.iter().map(|(name, rows)| linear(name, [*rows, hidden_size]));
        Ok(AttentionWeights {
            qkv: qkv.collect::<Result<_>>()?,
            out: linear("out", [hidden_size, query])?,
            norm: self.vector(&format!("{path}.norm.scale"), &[hidden_size])?,
            sinks: self.vector(&format!("{path}.sinks"), &[num_heads])?,
        })
    }

    fn mlp(&mut self, n: usize) -> Result<MlpWeights> {
        let (path, count) = (format!("layers.{n}.mlp"), self.config.experts[n]);
        let Config { hidden_size: hidden, intermediate_size: inner, .. } = *self.config;
        Ok(MlpWeights {
            norm: self.vector(&format!("{path}.norm.scale"), &[hidden])?,
            router: Linear {
                matrix: self.matrix(&format!("{path}.router"), PLAIN, &[count, hidden])?,
                bias: Some(self.vector(&format!("{path}.router.bias"), &[count])?),
            },
            gate_up: self
                .experts(&format!("{path}.experts.gate_up"), &[count, 2 * inner, hidden])?,
            down: self.experts(&format!("{path}.experts.down"), &[count, hidden, inner])?,
        })
    }

    fn experts(&mut self, path: &str, shape: &[u64]) -> Result<ExpertWeights> {
        Ok(ExpertWeights {
            matrix: self.matrix(path, self.layout.experts, shape)?,
            bias: self.vector(&format!("{path}.bias"), &shape[..2])?,
        })
    }

    /// A matrix `[out, in]`, or one for each expert.
    fn matrix(&mut self, path: &str, format: MatrixFormat, shape: &[u64]) -> Result<Matrix> {
        let (experts, sides) = shape.split_last_chunk().expect("two sides");
        Matrix::new(path, format, experts.first().copied(), *sides, |(_, part)| {
            self.weight(format!("{path}.{}", part.name), part.kind, part.shape)
        })
    }

    fn vector(&mut self, name: &str, shape: &[u64]) -> Result<Weight> {
        self.weight(name.to_owned(), ElementKind::Float, shape.to_vec())
    }

    /// Takes the tensors of a weight, which must have the dtype and shape that it needs.
    fn weight(&mut self, name: String, kind: ElementKind, shape: Vec<u64>) -> Result<Weight> {
        let sources = (self.layout.sources)(&name, shape[0]);
        let (tensors, expected) = match &sources {
            Sources::Tensor(tensor) => (std::slice::from_ref(tensor), shape.clone()),
            Sources::Concat(tensors) => (&tensors[..], shape[1..].to_vec()),
            Sources::InterleaveRows(pairs) => {
                (pairs.as_flattened(), [&[shape[1] / 2], &shape[2..]].concat())
            }
        };
        let (mut first, mut ranges) = (None, Vec::with_capacity(tensors.len()));
        for tensor in tensors {
            let StoredTensor { name: tensor, dtype, shape: found, data } =
                self.tensors.take(tensor)?;
            let path = data.file.display();
            ensure!(
                kind.accepts(dtype),
                "`{path}`: tensor `{tensor}` must be {kind}, found {dtype}"
            );
            if found != expected {
                // The tensors of single experts have other axes.
                let first_axis =
                    matches!(sources, Sources::Tensor(_)) && found.first() != expected.first();
                let router = self.router_of(&name).filter(|_| first_axis);
                let by = router.map_or("the config".to_owned(), |it| format!("the rows of `{it}`"));
                bail!(
                    "`{path}`: tensor `{tensor}` must have shape {expected:?} (from {by}), found {found:?}"
                );
            }
            let first = *first.get_or_insert(dtype);
            ensure!(
                dtype == first,
                "`{path}`: tensor `{tensor}` must be {first} as those of the other experts, found {dtype}"
            );
            ranges.push(data);
        }
        let dtype = first.expect("a model has experts");
        let recipe = match sources {
            Sources::Tensor(_) => Recipe::Slice(ranges.remove(0)),
            Sources::Concat(_) => Recipe::Concat(ranges),
            Sources::InterleaveRows(_) => {
                let row = dtype.size() * expected[1..].iter().product::<u64>();
                Recipe::InterleaveRows { pairs: ranges.as_chunks().0.to_vec(), row }
            }
        };
        Ok(Weight { name, dtype, shape, kind, recipe })
    }

    /// The router whose rows decide the length of a weight's first axis, where layers have
    /// different numbers of experts; elsewhere the config decides.
    fn router_of(&self, name: &str) -> Option<String> {
        let (mlp, _) = name.split_once(".experts.").or_else(|| name.split_once(".router."))?;
        let experts = &self.config.experts;
        experts.iter().any(|count| *count != experts[0]).then(|| self.layout.router(mlp))
    }
}
