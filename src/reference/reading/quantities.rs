//! Finds the quantities of the definition among tensors.

use std::collections::HashMap;
use std::path::Path;

use super::tensors::{TensorInFile, TensorsInFiles};
use crate::error::{Error, Result, bail, ensure, err};
use crate::files::FileRange;
use crate::reference::matrix::{BLOCK, EncodedNumbers, Encoding, StoredMatrix};
use crate::reference::model::{Expert, Hyperparameters, LayerMatrices, LinearMap, ReferenceModel};
use crate::tensor::DType;

/// How the name of a matrix may end; those with codes have `.scales` too.
const WEIGHTS: &[&str] = &[".weight", ".weight_t", ".blocks", ".codes", ".columns"];
const BIASES: &[&str] = &[".bias"];

const FLOATS: &[DType] = &[DType::F32, DType::BF16, DType::F16, DType::F8E5M2];
const BYTES: &[DType] = &[DType::U8, DType::F8E8M0];

/// Tensors, and numbers that replace theirs.
pub struct Reader<'r> {
    /// Where the tensors are from, for errors.
    pub source: &'r Path,
    pub tensors: TensorsInFiles,
    /// Numbers of whole matrices, by the names of these.
    pub replaced: &'r HashMap<String, EncodedNumbers>,
}

impl Reader<'_> {
    pub fn model(&self, numbers: Hyperparameters) -> Result<ReferenceModel> {
        let Hyperparameters { vocab, hidden, .. } = numbers;
        let layers = 0..numbers.windows.len();
        let embedding = self.floats("embedding.weight", None, &[vocab, hidden], false)?;
        // A tied one has a tensor of its own once it was converted.
        let lm_head = self.matrices("lm_head", WEIGHTS, None, [vocab, hidden])?;
        let tied = numbers.is_tied.then(|| embedding.clone());
        let weights = lm_head.or(tied).ok_or_else(|| self.lacks("lm_head"))?;
        Ok(ReferenceModel {
            embedding: only(embedding),
            layers: layers.map(|n| self.layer(n, &numbers)).collect::<Result<_>>()?,
            norm: self.vector("norm.scale", hidden)?,
            lm_head: LinearMap { weights, biases: Vec::new() },
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
        let linear = |name, parts: &[(&str, u64)], inn, has_bias| {
            self.linears(&named(""), name, parts, None, inn, has_bias).map(only)
        };
        let of_experts = |name, parts: &[(&str, u64)], inn| {
            self.linears(&named("mlp."), name, parts, Some(experts), inn, true)
        };
        let gate_up = [("experts.gate", inner), ("experts.up", inner)];
        let gate_up = of_experts("experts.gate_up", &gate_up, hidden)?.into_iter();
        let down = of_experts("experts.down", &[("experts.down", hidden)], inner)?;
        let qkv = [("attn.q", queries), ("attn.k", keys), ("attn.v", keys)];
        let has_bias = numbers.attention_bias;
        Ok(LayerMatrices {
            attention_norm: self.vector(&named("attn.norm.scale"), hidden)?,
            qkv: linear("attn.qkv", &qkv, hidden, has_bias)?,
            sinks: self.vector(&named("attn.sinks"), heads)?,
            out: linear("attn.out", &[("attn.out", hidden)], queries, has_bias)?,
            experts_norm: self.vector(&named("mlp.norm.scale"), hidden)?,
            router: linear("mlp.router", &[("mlp.router", experts)], hidden, true)?,
            experts: gate_up.zip(down).map(|(gate_up, down)| Expert { gate_up, down }).collect(),
        })
    }

    /// A linear map, or one for each expert, stored as a whole or in parts with so many outputs.
    fn linears(
        &self,
        layer: &str,
        whole: &str,
        parts: &[(&str, u64)],
        experts: Option<u64>,
        inn: u64,
        has_bias: bool,
    ) -> Result<Vec<LinearMap>> {
        let read = |ends| -> Result<Vec<Vec<StoredMatrix>>> {
            let out = parts.iter().map(|(_, out)| out).sum();
            let tables = |name: &str, out| {
                self.matrices(&format!("{layer}{name}"), ends, experts, [out, inn])
            };
            if let Some(whole) = tables(whole, out)? {
                return Ok(vec![whole]);
            }
            let part = |(name, out): &(&str, u64)| {
                tables(name, *out)?.ok_or_else(|| self.lacks(&format!("{layer}{name}")))
            };
            parts.iter().map(part).collect()
        };
        let (weights, biases) = (read(WEIGHTS)?, if has_bias { read(BIASES)? } else { Vec::new() });
        let of = |parts: &[Vec<StoredMatrix>], expert: usize| {
            parts.iter().map(|tables| tables[expert].clone()).collect()
        };
        let one = |expert| LinearMap { weights: of(&weights, expert), biases: of(&biases, expert) };
        Ok((0..experts.unwrap_or(1) as usize).map(one).collect())
    }

    /// Matrices `[out, in]` or biases `[out]` of all experts or of none, in one tensor or in one
    /// for each; `None` if there are none of this name.
    fn matrices(
        &self,
        name: &str,
        ends: &[&str],
        experts: Option<u64>,
        sides: [u64; 2],
    ) -> Result<Option<Vec<StoredMatrix>>> {
        if let Some(numbers) = self.replaced.get(name).filter(|_| ends == WEIGHTS) {
            let [out, inn] = sides;
            let tables = numbers.clone().matrices([experts.unwrap_or(1), out, inn], false);
            return Ok(Some(tables));
        }
        if let Some(end) = self.end(name, ends)? {
            return self.stack(name, end, experts, sides).map(Some);
        }
        let of_expert = |expert: u64| -> Result<_> {
            let inside = name.replace(".experts.", &format!(".experts.{expert}."));
            for name in [inside, format!("{name}.{expert}")] {
                if let Some(end) = self.end(&name, ends)? {
                    return self.stack(&name, end, None, sides).map(Some);
                }
            }
            Ok(None)
        };
        let all = (0..experts.unwrap_or_default()).map_while(|it| of_expert(it).transpose());
        let all = all.collect::<Result<Vec<_>>>()?.concat();
        ensure!(
            all.is_empty() || Some(all.len() as u64) == experts,
            "`{}` has `{name}` of {} experts, and the router has more",
            self.source.display(),
            all.len()
        );
        Ok(Some(all).filter(|all| !all.is_empty()))
    }

    /// How the name of a matrix ends. Ignored tensors count if there are no others.
    fn end<'e>(&self, name: &str, ends: &[&'e str]) -> Result<Option<&'e str>> {
        let found = |end: &str| self.tensors.get(&format!("{name}{end}"));
        let mut there: Vec<&str> =
            ends.iter().copied().filter(|end| found(end).is_some()).collect();
        if there.len() > 1 {
            there.retain(|end| found(end).is_some_and(|tensor| !tensor.is_ignored));
        }
        match there[..] {
            [] => Ok(None),
            [end] => Ok(Some(end)),
            _ => bail!(
                "`{}` has `{name}` in several formats: remove all but one",
                self.source.display()
            ),
        }
    }

    /// The matrices or biases in a tensor, and in that of its scales.
    fn stack(
        &self,
        name: &str,
        end: &str,
        experts: Option<u64>,
        [out, inn]: [u64; 2],
    ) -> Result<Vec<StoredMatrix>> {
        let elements = format!("{name}{end}");
        let (encoding, of_scales) = match end {
            ".bias" => return self.floats(&elements, experts, &[out], false),
            ".weight" => return self.floats(&elements, experts, &[out, inn], false),
            ".weight_t" => return self.floats(&elements, experts, &[inn, out], true),
            ".blocks" => (Encoding::Mxfp4, BYTES),
            ".codes" if self.get(&elements)?.shape.last() == Some(&BLOCK) => {
                (Encoding::Integers { bits: 8 }, &FLOATS[..1])
            }
            ".codes" => (Encoding::Integers { bits: 4 }, &FLOATS[..1]),
            _ => bail!("the experts are laid out for CUDA: use the checkpoint itself"),
        };
        ensure!(
            inn % BLOCK == 0,
            "`{elements}`: rows of {inn} numbers are no whole blocks of {BLOCK}"
        );
        let [bytes, _] = encoding.bytes(BLOCK);
        let blocks = [experts.as_slice(), &[out, inn / BLOCK]].concat();
        let (elements, _) = self.tensor(&elements, BYTES, &[&blocks[..], &[bytes]].concat())?;
        let (scales, _) = self.tensor(&format!("{name}.scales"), of_scales, &blocks)?;
        let numbers = EncodedNumbers { encoding, elements, scales: Some(scales) };
        Ok(numbers.matrices([experts.unwrap_or(1), out, inn], false))
    }

    fn vector(&self, name: &str, length: u64) -> Result<StoredMatrix> {
        self.floats(name, None, &[length], false).map(only)
    }

    /// The tables or vectors in a tensor of floats.
    fn floats(
        &self,
        name: &str,
        experts: Option<u64>,
        shape: &[u64],
        is_transposed: bool,
    ) -> Result<Vec<StoredMatrix>> {
        let (elements, dtype) = self.tensor(name, FLOATS, &[experts.as_slice(), shape].concat())?;
        let sides = if let [rows, columns] = *shape { [rows, columns] } else { [1, shape[0]] };
        let numbers = EncodedNumbers { encoding: Encoding::Float(dtype), elements, scales: None };
        Ok(numbers.matrices([experts.unwrap_or(1), sides[0], sides[1]], is_transposed))
    }

    fn get(&self, name: &str) -> Result<&TensorInFile> {
        self.tensors.get(name).ok_or_else(|| self.lacks(name))
    }

    fn lacks(&self, name: &str) -> Error {
        err!("`{}` has no tensor that the reference could read as `{name}`", self.source.display())
    }

    /// The data and the dtype of a tensor that has one of these dtypes and this shape.
    fn tensor(&self, name: &str, dtypes: &[DType], shape: &[u64]) -> Result<(FileRange, DType)> {
        let TensorInFile { dtype, shape: found, data, .. } = self.get(name)?;
        let (file, bytes) = (data.file.display(), data.len());
        let is_expected =
            |it: &DType| found == shape && dtypes.contains(it) && it.bytes(shape) == Some(bytes);
        let dtype = dtype.filter(is_expected).ok_or_else(|| {
            let dtypes: Vec<String> = dtypes.iter().map(DType::to_string).collect();
            let dtypes = dtypes.join(", ");
            err!("`{file}`: `{name}` has shape {found:?} in {bytes} bytes, expected {shape:?} in {dtypes}")
        })?;
        Ok((data.clone(), dtype))
    }
}

/// The only one.
fn only<T>(mut all: Vec<T>) -> T {
    all.pop().expect("one is asked for")
}
