//! Finds the quantities of the definition among tensors.

use std::collections::HashMap;
use std::path::Path;

use super::tensors::{TensorInFile, TensorsInFiles};
use crate::error::{Error, Result, bail, ensure, err};
use crate::files::FileRange;
use crate::reference::matrix::{BLOCK, EncodedNumbers, Encoding, StoredMatrix};
use crate::reference::model::{Expert, Hyperparameters, LayerMatrices, LinearMap, ReferenceModel};
use crate::tensor::DType;

/// How the name of a matrix may end; those of codes have `.scales` too.
const WEIGHTS: &[&str] = &[".weight", ".weight_t", ".blocks", ".codes", ".columns"];
const BIASES: &[&str] = &[".bias"];

const FLOATS: &[DType] = &[DType::F32, DType::BF16, DType::F16, DType::F8E5M2];
const F32: &[DType] = &[DType::F32];
const BYTES: &[DType] = &[DType::U8, DType::F8E8M0];

/// Tensors, and numbers that replace theirs.
pub struct Reader<'r> {
    /// Where the tensors are from, for errors.
    pub source: &'r Path,
    pub tensors: TensorsInFiles,
    /// Numbers of whole matrices, by the names of these.
    pub replaced: &'r HashMap<String, EncodedNumbers>,
}

/// An expert, and the number of all in its layer.
type OneOf = [u64; 2];

impl Reader<'_> {
    pub fn model(&self, numbers: Hyperparameters) -> Result<ReferenceModel> {
        let Hyperparameters { vocab, hidden, .. } = numbers;
        let embedding = self.floats("embedding.weight", None, &[vocab, hidden], false)?;
        // A tied one has numbers of its own once it was converted.
        let lm_head = self.matrix("lm_head", WEIGHTS, None, [vocab, hidden])?;
        let tied = numbers.is_tied.then(|| embedding.clone());
        let lm_head = lm_head.or(tied).ok_or_else(|| self.lacks("lm_head"))?;
        let layers = (0..numbers.windows.len()).map(|n| self.layer(n, &numbers));
        Ok(ReferenceModel {
            layers: layers.collect::<Result<_>>()?,
            norm: self.floats("norm.scale", None, &[hidden], false)?,
            lm_head: LinearMap { weights: vec![lm_head], biases: Vec::new() },
            embedding,
            numbers,
        })
    }

    fn layer(&self, n: usize, numbers: &Hyperparameters) -> Result<LayerMatrices> {
        let Hyperparameters { hidden, inner, head_dim, heads, kv_heads, .. } = *numbers;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let named = |name: &str| format!("layers.{n}.{name}");
        // A config may have another number of experts; the router knows.
        let router = named("mlp.router.weight");
        let experts = self.get(&router)?.shape.first().copied().unwrap_or_default();
        let chosen = numbers.experts_per_token;
        ensure!(
            experts >= chosen,
            "`{}`: layer {n} has {experts} experts, and {chosen} are chosen for each token",
            self.source.display()
        );
        let linear = |whole, parts: &[(&str, u64)], inn, has_bias| {
            self.linear(&named(""), whole, parts, None, inn, has_bias)
        };
        let vector = |name, length| self.floats(&named(name), None, &[length], false);
        let expert = |expert| {
            let (prefix, expert) = (named("mlp.experts."), Some([expert, experts]));
            let linear = |whole, parts: &[(&str, u64)], inn| {
                self.linear(&prefix, whole, parts, expert, inn, true)
            };
            let gate_up = linear("gate_up", &[("gate", inner), ("up", inner)], hidden)?;
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
            if let Some(whole) = stored(whole, parts.iter().map(|(_, out)| out).sum())? {
                return Ok(vec![whole]);
            }
            let part = |(name, out): &(&str, u64)| {
                let lacks = || self.lacks(&format!("{prefix}{name}{}", ends[0]));
                stored(name, *out)?.ok_or_else(lacks)
            };
            parts.iter().map(part).collect::<Result<Vec<_>>>()
        };
        let biases = if has_bias { read(BIASES)? } else { Vec::new() };
        Ok(LinearMap { weights: read(WEIGHTS)?, biases })
    }

    /// A matrix `[out, in]` or a bias `[out]`, if there is one: in a tensor of all experts, or in
    /// one of its own. Ignored tensors count if there are no others.
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
            Some((way, self.tensors.get(&format!("{stem}{end}"))?.is_ignored))
        });
        let mut found: Vec<_> = found.collect();
        if found.iter().any(|(_, is_ignored)| !is_ignored) {
            found.retain(|(_, is_ignored)| !is_ignored);
        }
        match found[..] {
            [] => Ok(None),
            [(((stem, expert), end), _)] => self.stored(stem, end, *expert, sides).map(Some),
            _ => bail!(
                "`{}` has `{name}` in several forms: remove all but one",
                self.source.display()
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
        let (encoding, of_scales) = match end {
            ".bias" => return self.floats(&name, expert, &[out], false),
            ".weight" => return self.floats(&name, expert, &[out, inn], false),
            ".weight_t" => return self.floats(&name, expert, &[inn, out], true),
            ".columns" => bail!("the experts are laid out for CUDA: use the checkpoint itself"),
            ".blocks" => (Encoding::Mxfp4, BYTES),
            // The last axis has the bytes of a block.
            _ if self.get(&name)?.shape.last() == Some(&BLOCK) => (Encoding::Int8, F32),
            _ => (Encoding::Int4, F32),
        };
        ensure!(inn % BLOCK == 0, "`{name}`: {inn} numbers are no whole blocks of {BLOCK}");
        let scales = [out, inn / BLOCK];
        let elements = [&scales[..], &encoding.bytes(BLOCK)[..1]].concat();
        let (elements, _) = self.tensor(&name, BYTES, expert, &elements)?;
        let (scales, _) = self.tensor(&format!("{stem}.scales"), of_scales, expert, &scales)?;
        let numbers = EncodedNumbers { encoding, parts: vec![elements, scales] };
        Ok(numbers.matrix(expert, [out, inn], false))
    }

    /// A matrix of floats, or a vector.
    fn floats(
        &self,
        name: &str,
        expert: Option<OneOf>,
        shape: &[u64],
        is_transposed: bool,
    ) -> Result<StoredMatrix> {
        let (data, dtype) = self.tensor(name, FLOATS, expert, shape)?;
        let numbers = EncodedNumbers { encoding: Encoding::Float(dtype), parts: vec![data] };
        let sides = if let [rows, columns] = *shape { [rows, columns] } else { [1, shape[0]] };
        Ok(numbers.matrix(expert, sides, is_transposed))
    }

    /// The data and the dtype of a tensor that has one of these dtypes and, for each expert, this
    /// shape.
    fn tensor(
        &self,
        name: &str,
        dtypes: &[DType],
        expert: Option<OneOf>,
        shape: &[u64],
    ) -> Result<(FileRange, DType)> {
        let shape = [expert.map(|[_, all]| all).as_slice(), shape].concat();
        let TensorInFile { dtype, shape: found, data, .. } = self.get(name)?;
        let (file, bytes) = (data.file.display(), data.len());
        let fits = |it: &DType| dtypes.contains(it) && it.bytes(&shape) == Some(bytes);
        let dtype = dtype.filter(|it| *found == shape && fits(it)).ok_or_else(|| {
            let dtypes: Vec<String> = dtypes.iter().map(DType::to_string).collect();
            let dtypes = dtypes.join(", ");
            err!("`{file}`: `{name}` has shape {found:?} in {bytes} bytes, expected {shape:?} in {dtypes}")
        })?;
        Ok((data.clone(), dtype))
    }

    fn get(&self, name: &str) -> Result<&TensorInFile> {
        self.tensors.get(name).ok_or_else(|| self.lacks(name))
    }

    fn lacks(&self, name: &str) -> Error {
        err!("`{}` has no tensor that the reference could read as `{name}`", self.source.display())
    }
}
