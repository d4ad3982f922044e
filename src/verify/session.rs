//! A loaded model: what it takes, and what it returns for rows of tokens.

use std::path::Path;

use super::inputs::{InputPlan, Signature, Step, StepToken};
use super::position::Position;
use crate::error::{Error, Result, bail, ensure, err};
use crate::model::Target;
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{ElementType, Session, TensorInfo, TensorValue};

/// A loaded model.
pub struct ModelSession {
    session: Session,
    pub signature: Signature,
    /// Logits of a token.
    pub vocab: u64,
    pub extra: ExtraOutputs,
    /// Whether values inside have each row's tokens before its padding.
    packed: bool,
    caches: Vec<Cache>,
}

/// Values that are outputs of the model besides its own.
#[derive(Clone, Debug, Default)]
pub struct ExtraOutputs {
    /// Names of values of the residual stream.
    pub residuals: Vec<String>,
    /// Names of router scores.
    pub routers: Vec<String>,
}

/// The keys or values of a layer.
struct Cache {
    past: String,
    present: String,
    heads: usize,
    width: usize,
    /// F32 or F16.
    dtype: ElementType,
}

/// What a step returns.
pub struct StepOutputs<'o> {
    /// `[rows, width, vocab]`, or `[rows, 1, vocab]`.
    pub logits: &'o [f32],
    /// Values of the residual stream, `[rows · width, hidden]` each.
    pub residuals: Vec<&'o [f32]>,
    /// Router scores, `[rows · width, experts]` each.
    pub routers: Vec<&'o [f32]>,
    packed: bool,
}

impl StepOutputs<'_> {
    /// The elements of each token in a value of `[rows · width, size]`; `None` if it has
    /// another size.
    pub fn by_token<'v>(
        &self,
        step: &Step,
        values: &'v [f32],
        size: usize,
    ) -> Option<Vec<(Position, &'v [f32])>> {
        let mut tokens_before = vec![0; step.rows.len()];
        let one = |StepToken { position, column }| {
            let before = &mut tokens_before[position.row];
            let column = if self.packed { *before } else { column };
            *before += 1;
            let start = (position.row * step.width() + column) * size;
            Some((position, values.get(start..start + size)?))
        };
        step.tokens().map(one).collect()
    }
}

/// The error of a model that is not like ours.
pub fn unexpected(path: &Path, what: &str) -> Error {
    err!("`{}` has {what}: it was not written by gpt-oss-export", path.display())
}

impl ModelSession {
    pub fn new(path: &Path, session: Session, target: Target, extra: ExtraOutputs) -> Result<Self> {
        let (inputs, outputs) = (session.inputs(), session.outputs());
        let interface = Interface { inputs: &inputs, outputs: &outputs };
        let (signature, vocab, caches) =
            interface.check().map_err(|what| unexpected(path, &what.to_string()))?;
        let packed = target == Target::Ort;
        Ok(Self { session, signature, vocab, extra, packed, caches })
    }

    /// Runs all steps of a plan on rows of token ids, and hands out what each returns.
    pub fn run(
        &mut self,
        plan: &InputPlan,
        rows: &[Vec<u32>],
        progress: &dyn Progress,
        mut visit: impl FnMut(&Step, &StepOutputs) -> Result<()>,
    ) -> Result<()> {
        let stop = || progress.is_cancelled();
        let batch = rows.len();
        let total = plan.steps.iter().map(|step| (batch * step.width()) as u64).sum();
        let running = phase(progress, "running the model", Unit::Tokens, total);
        let empty =
            |cache: &Cache| TensorValue::empty(cache.dtype, &[batch, cache.heads, 0, cache.width]);
        let mut past = self.caches.iter().map(empty).collect::<Result<Vec<_>>>()?;
        let mut masks = vec![Vec::new(); batch];
        for step in &plan.steps {
            if !self.signature.cache {
                masks = vec![Vec::new(); batch];
            }
            for (mask, row) in masks.iter_mut().zip(&step.rows) {
                mask.extend(row.iter().map(|token| i64::from(token.is_some())));
            }
            let ids = TensorValue::i64(&[batch, step.width()], ids(step, rows))?;
            let mask = TensorValue::i64(&[batch, masks[0].len()], masks.concat())?;
            let mut inputs = vec![("input_ids", &ids)];
            if self.signature.mask {
                inputs.push(("attention_mask", &mask));
            }
            inputs.extend(self.caches.iter().map(|cache| cache.past.as_str()).zip(&past));
            let mut outputs = self.session.run(&inputs, &stop)?;
            let values = |names: &[String]| {
                names.iter().map(|name| outputs[name].values()).collect::<Result<Vec<_>>>()
            };
            visit(
                step,
                &StepOutputs {
                    logits: outputs["logits"].values()?,
                    residuals: values(&self.extra.residuals)?,
                    routers: values(&self.extra.routers)?,
                    packed: self.packed,
                },
            )?;
            running.advance((batch * step.width()) as u64);
            past = self.caches.iter().filter_map(|it| outputs.remove(&it.present)).collect();
        }
        Ok(())
    }
}

/// Token ids of a step; padding has an id too.
fn ids(step: &Step, rows: &[Vec<u32>]) -> Vec<i64> {
    let pairs = step.rows.iter().zip(rows);
    let ids = pairs.flat_map(|(columns, row)| {
        columns.iter().map(|token| token.map_or(0, |token| i64::from(row[token])))
    });
    ids.collect()
}

/// The inputs and outputs of a model; errors say what a model of ours would not have.
struct Interface<'m> {
    inputs: &'m [TensorInfo],
    outputs: &'m [TensorInfo],
}

const PAST: &str = "past_key_values";

impl Interface<'_> {
    fn check(&self) -> Result<(Signature, u64, Vec<Cache>)> {
        for TensorInfo { name, dtype, shape } in self.inputs {
            let (dtypes, rank): (&[ElementType], _) = match name.as_str() {
                "input_ids" | "attention_mask" => (&[ElementType::I64], 2),
                name if name.starts_with(PAST) => (&[ElementType::F32, ElementType::F16], 4),
                _ => bail!("the input `{name}`"),
            };
            ensure!(
                dtypes.contains(dtype) && shape.len() == rank,
                "an input `{name}` of another type"
            );
        }
        let input = |name: &str| self.inputs.iter().find(|input| input.name == name);
        let ids = input("input_ids").ok_or_else(|| err!("no input `input_ids`"))?;
        ensure!(!ids.shape.contains(&Some(0)), "an input `input_ids` without tokens");
        let caches = self.caches()?;
        let mask = input("attention_mask").is_some();
        ensure!(mask || caches.is_empty(), "a cache and no input `attention_mask`");
        let logits = self.outputs.iter().find(|output| output.name == "logits");
        let logits = logits.filter(|it| it.dtype == ElementType::F32 && it.shape.len() == 3);
        let logits =
            logits.ok_or_else(|| err!("no output `logits` f32 [rows, tokens, vocabulary]"))?;
        let vocab = logits.shape[2].ok_or_else(|| err!("logits of an unknown vocabulary"))?;
        let [batch, length] = [0, 1].map(|axis| ids.shape[axis].map(|size| size as usize));
        let last = logits.shape[1] == Some(1) && length != Some(1);
        let cache = !caches.is_empty();
        Ok((Signature { batch, length, cache, mask, last }, vocab, caches))
    }

    fn caches(&self) -> Result<Vec<Cache>> {
        let cache = |TensorInfo { name, dtype, shape }: &TensorInfo| {
            let present = name.replacen(PAST, "present", 1);
            let has_present = self.outputs.iter().any(|output| output.name == present);
            ensure!(has_present, "no output `{present}`");
            let size = |axis: usize| {
                let size = shape[axis].map(|size| size as usize);
                size.ok_or_else(|| err!("an unknown size in `{name}`"))
            };
            let (heads, width) = (size(1)?, size(3)?);
            Ok(Cache { past: name.clone(), present, heads, width, dtype: *dtype })
        };
        self.inputs.iter().filter(|input| input.name.starts_with(PAST)).map(cache).collect()
    }
}
