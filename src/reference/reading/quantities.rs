//! Finds the quantities of the definition among tensors.

use std::collections::HashMap;

use super::tensors::{NamedTensors, OneOf, Precedence};
use crate::error::{Result, bail, ensure};
use crate::reference::matrix::{BLOCK, EncodedNumbers, Encoding, StoredMatrix};
use crate::reference::model::{Expert, Hyperparameters, LayerMatrices, LinearMap, ReferenceModel};
use crate::tensor::DType;

/// How the name of a matrix may end; those of codes have scales too.
const WEIGHTS: &[&str] =
    &[".weight", ".weight_t", ".blocks", ".pairs", ".codes", ".digits", ".high"];
const BIASES: &[&str] = &[".bias"];

const F32: &[DType] = &[DType::F32];
const DIGITS: &[DType] = &[DType::I8];
const BYTES: &[DType] = &[DType::U8, DType::F8E8M0];
const E4M3: &[DType] = &[DType::F8E4M3];

/// Tensors, and numbers that replace theirs.
pub struct Reader<'r> {
    pub tensors: NamedTensors<'r>,
    /// Numbers of whole matrices, by the names of these.
    pub replaced: &'r HashMap<String, EncodedNumbers>,
}

impl Reader<'_> {
    pub fn model(&self, numbers: Hyperparameters) -> Result<ReferenceModel> {
        let Hyperparameters { vocab, hidden, .. } = numbers;
        let alone = |matrix| LinearMap { weights: vec![matrix], ..LinearMap::default() };
        let embedding = self.tensors.floats("embedding.weight", None, &[vocab, hidden], false)?;
        // A tied one has numbers of its own once it was converted.
        let lm_head = self.matrix("lm_head", WEIGHTS, None, [vocab, hidden])?;
        let tied = numbers.is_tied.then(|| embedding.clone());
        let lm_head = lm_head.or(tied).ok_or_else(|| self.tensors.lacks("lm_head"))?;
        let layers = (0..numbers.windows.len()).map(|n| self.layer(n, &numbers));
        Ok(ReferenceModel {
            layers: layers.collect::<Result<_>>()?,
            norm: self.tensors.floats("norm.scale", None, &[hidden], false)?,
            lm_head: alone(lm_head),
            embedding: alone(embedding),
            numbers,
        })
    }

    fn layer(&self, n: usize, numbers: &Hyperparameters) -> Result<LayerMatrices> {
        let Hyperparameters { hidden, inner, head_dim, heads, kv_heads, .. } = *numbers;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let named = |name: &str| format!("layers.{n}.{name}");
        // A config may have another number of experts; the router knows.
        let router = named("mlp.router.weight");
        let experts = self.tensors.get(&router)?.shape.first().copied().unwrap_or_default();
        let chosen = numbers.experts_per_token;
        ensure!(
            experts >= chosen,
            "`{}`: layer {n} has {experts} experts, and {chosen} are chosen for each token",
            self.tensors.source.display()
        );
        let linear = |whole, parts: &[(&str, u64)], inn, has_bias| {
            self.linear(&named(""), whole, parts, None, inn, has_bias)
        };
        let vector = |name, length| self.tensors.floats(&named(name), None, &[length], false);
        let expert = |expert| {
            let (prefix, expert) = (named("mlp.experts."), Some([expert, experts]));
            let linear = |whole, parts: &[(&str, u64)], inn| {
                self.linear(&prefix, whole, parts, expert, inn, true)
            };
            let gate_up = linear("gate_up", &[("gate", inner), ("up", inner)], hidden)?;
            let gate_up = LinearMap { alternates: true, ..gate_up };
            Ok(Expert { gate_up, down: linear("down", &[("down", hidden)], inner)? })
        };
        let qkv = [("attn.q", queries), ("attn.k", keys), ("attn.v", keys)];
        let has_bias = numbers.attention_bias;
        Ok(LayerMatrices {
            attention_norm: vector("attn.norm.scale", hidden)?,
            qkv: linear("attn.qkv", &qkv, hidden, has_bias)?,
            sinks: vector("attn.sinks", heads)?,
            out: linear("attn.out", &[("attn.out", hidden)], queries, has_bias)?,
            experts_norm: vector("mlp.norm.scale", hidden)?,
            router: linear("mlp.router", &[("mlp.router", experts)], hidden, true)?,
            experts: (0..experts).map(expert).collect::<Result<_>>()?,
        })
    }

    /// A linear map that is stored as a whole, or in parts with so many outputs.
    fn linear(
        &self,
        prefix: &str,
        whole: &str,
        parts: &[(&str, u64)],
        expert: Option<OneOf>,
        inn: u64,
        has_bias: bool,
    ) -> Result<LinearMap> {
        let read = |ends| {
            let stored =
                |name: &str, out| self.matrix(&format!("{prefix}{name}"), ends, expert, [out, inn]);
            let whole = stored(whole, parts.iter().map(|(_, out)| out).sum())?;
            let is_replaced =
                |(name, _): &(&str, _)| self.is_replaced(&format!("{prefix}{name}"), ends);
            let parts_count = parts.iter().any(is_replaced);
            if let Some(whole) = whole.iter().find(|_| !parts_count) {
                return Ok(vec![whole.clone()]);
            }
            let (mut start, columns) = (0, if ends == BIASES { 1 } else { inn });
            let part = |(name, out): &(&str, u64)| {
                let numbers = start * columns..(start + out) * columns;
                start += out;
                if let Some(part) = stored(name, *out)? {
                    return Ok(part);
                }
                let lacks = || self.tensors.lacks(&format!("{prefix}{name}{}", ends[0]));
                let whole = whole.as_ref().ok_or_else(lacks)?;
                let sides = if ends == BIASES { [1, *out] } else { [*out, inn] };
                Ok(whole.numbers.slice(numbers).matrix(None, sides, false))
            };
            parts.iter().map(part).collect::<Result<Vec<_>>>()
        };
        let biases = if has_bias { read(BIASES)? } else { Vec::new() };
        Ok(LinearMap { weights: read(WEIGHTS)?, biases, ..LinearMap::default() })
    }

    /// Whether a matrix or a bias has other values than the checkpoint's.
    fn is_replaced(&self, name: &str, ends: &[&str]) -> bool {
        let of_adapter = |end: &&str| {
            let tensor = self.tensors.by_name.get(&format!("{name}{end}"));
            tensor.is_some_and(|it| it.precedence == Precedence::OfAdapter)
        };
        ends == WEIGHTS && self.replaced.contains_key(name) || ends.iter().any(of_adapter)
    }

    /// A matrix `[out, in]` or a bias `[out]`, if there is one: in a tensor of all experts, or in
    /// one of its own.
    fn matrix(
        &self,
        name: &str,
        ends: &[&str],
        expert: Option<OneOf>,
        sides: [u64; 2],
    ) -> Result<Option<StoredMatrix>> {
        if let Some(numbers) = self.replaced.get(name).filter(|_| ends == WEIGHTS) {
            return Ok(Some(numbers.matrix(expert, sides, false)));
        }
        let mut stems = vec![(name.to_owned(), expert)];
        if let Some([expert, _]) = expert {
            let inside = name.replace(".experts.", &format!(".experts.{expert}."));
            stems.extend([(inside, None), (format!("{name}.{expert}"), None)]);
        }
        let ways = stems.iter().flat_map(|stem| ends.iter().map(move |end| (stem, *end)));
        let found = ways.filter_map(|way @ ((stem, _), end)| {
            Some((way, self.tensors.by_name.get(&format!("{stem}{end}"))?.precedence))
        });
        let mut found: Vec<_> = found.collect();
        let highest = found.iter().map(|(_, precedence)| *precedence).max();
        found.retain(|(_, precedence)| Some(*precedence) == highest);
        match found[..] {
            [] => Ok(None),
            [(((stem, expert), end), _)] => self.stored(stem, end, *expert, sides).map(Some),
            _ => bail!(
                "`{}` has `{name}` in several forms: remove all but one",
                self.tensors.source.display()
            ),
        }
    }

    fn stored(
        &self,
        stem: &str,
        end: &str,
        expert: Option<OneOf>,
        [out, inn]: [u64; 2],
    ) -> Result<StoredMatrix> {
        let name = format!("{stem}{end}");
        let part = |name: &str, dtypes, shape: &[u64]| {
            let tensor = self.tensors.tensor(&format!("{stem}.{name}"), dtypes, expert, shape);
            tensor.map(|(data, _)| data)
        };
        let groups = inn / BLOCK;
        // The shape of the scales, how many bytes of codes each is for, and their name.
        let whole = vec![out, groups];
        let (encoding, shape, bytes, (scales, of_scales)) = match end {
            ".bias" => return self.tensors.floats(&name, expert, &[out], false),
            ".weight" => return self.tensors.floats(&name, expert, &[out, inn], false),
            ".weight_t" => return self.tensors.floats(&name, expert, &[inn, out], true),
            ".high" => {
                let digits = |name| part(name, DIGITS, &[out, inn]);
                let parts = vec![digits("high")?, digits("low")?, part("scales", F32, &[out])?];
                let encoding = Encoding::Int8x2 { columns: inn };
                let numbers = EncodedNumbers { encoding, parts };
                return Ok(numbers.matrix(expert, [out, inn], false));
            }
            ".blocks" => (Encoding::Mxfp4, whole, 16, ("scales", BYTES)),
            ".pairs" => (Encoding::Nvfp4, vec![out, 2 * groups], 8, ("block_scales", E4M3)),
            ".digits" => (Encoding::Int4x2, vec![out, 2, groups], 16, ("digit_scales", F32)),
            _ if self.tensors.get(&name)?.shape.last() == Some(&BLOCK) => {
                (Encoding::Int8, whole, 32, ("scales", F32))
            }
            _ => (Encoding::Int4, whole, 16, ("scales", F32)),
        };
        ensure!(inn % BLOCK == 0, "`{name}`: {inn} numbers are no whole blocks of {BLOCK}");
        let codes = [&shape[..], &[bytes]].concat();
        let mut parts = vec![part(&end[1..], BYTES, &codes)?, part(scales, of_scales, &shape)?];
        if encoding == Encoding::Nvfp4 {
            parts.push(part("global_scale", F32, &[])?);
        }
        let numbers = EncodedNumbers { encoding, parts };
        Ok(numbers.matrix(expert, [out, inn], false))
    }
}
