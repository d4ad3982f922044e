//! A model in onnxruntime: what it takes, and what it returns for rows of tokens.

use super::inputs::{InputPlan, Position, Signature, Step, StepToken};
use crate::error::{Result, ensure, err};
use crate::onnx::{Size, ValueInfo};
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{Session, TensorValue};
use crate::tensor::DType;

/// The inputs and outputs of a model of ours.
#[derive(Clone, Debug)]
pub struct Interface {
    pub signature: Signature,
    /// Number of logits of a token.
    pub vocab: u64,
    caches: Vec<Cache>,
}

/// The keys or values of a layer.
#[derive(Clone, Debug)]
struct Cache {
    past: String,
    present: String,
    heads: usize,
    width: usize,
    /// F32 or F16.
    dtype: DType,
}

const PAST: &str = "past_key_values";

impl Interface {
    /// An error says what a model of ours would not have.
    pub fn new(inputs: &[ValueInfo], outputs: &[ValueInfo]) -> Result<Self> {
        for input in inputs {
            let is_known = match &*input.name {
                "input_ids" | "attention_mask" => is_of(input, DType::I64, 2),
                name if name.starts_with(PAST) => {
                    is_of(input, DType::F32, 4) || is_of(input, DType::F16, 4)
                }
                _ => false,
            };
            ensure!(is_known, "an unknown input `{}` {}", input.name, input.dtype);
        }
        let input = |name: &str| inputs.iter().find(|input| input.name == name);
        let ids = input("input_ids").ok_or_else(|| err!("no input `input_ids`"))?;
        let [batch, length] = [size(ids, 0), size(ids, 1)];
        ensure!(batch != Some(0) && length != Some(0), "an input `input_ids` without tokens");
        let past = inputs.iter().filter(|input| input.name.starts_with(PAST));
        let caches = past.map(|past| Cache::new(past, outputs)).collect::<Result<Vec<_>>>()?;
        let (cache, mask) = (!caches.is_empty(), input("attention_mask").is_some());
        ensure!(mask || !cache, "a cache and no input `attention_mask`");
        let logits = outputs.iter().find(|it| it.name == "logits" && is_of(it, DType::F32, 3));
        let logits = logits.ok_or_else(|| err!("no output `logits` f32 [rows, tokens, vocab]"))?;
        let vocab = size(logits, 2).ok_or_else(|| err!("logits of unknown number"))? as u64;
        let last = size(logits, 1) == Some(1) && length != Some(1);
        Ok(Self { signature: Signature { batch, length, cache, mask, last }, vocab, caches })
    }
}

impl Cache {
    fn new(past: &ValueInfo, outputs: &[ValueInfo]) -> Result<Self> {
        let present = past.name.replacen(PAST, "present", 1);
        let has_present = outputs.iter().any(|output| output.name == present);
        ensure!(has_present, "no output `{present}`");
        let known =
            |axis| size(past, axis).ok_or_else(|| err!("a symbolic size in `{}`", past.name));
        let dtype = if is_of(past, DType::F16, 4) { DType::F16 } else { DType::F32 };
        Ok(Self { past: past.name.clone(), present, heads: known(1)?, width: known(3)?, dtype })
    }
}

fn is_of(value: &ValueInfo, dtype: DType, rank: usize) -> bool {
    value.dtype == dtype.to_string() && value.shape.len() == rank
}

/// The size of an axis; `None` if it is symbolic.
fn size(value: &ValueInfo, axis: usize) -> Option<usize> {
    let Size::Known(size) = value.shape[axis] else { return None };
    Some(size as usize)
}

/// A loaded model.
pub struct ModelSession {
    pub session: Session,
    pub interface: Interface,
    /// Names of the residual stream's values, if they are outputs too.
    pub residuals: Vec<String>,
    /// Names of router scores, if they are outputs too.
    pub routers: Vec<String>,
    /// Whether inner values have the tokens of each row before its padding.
    pub is_packed: bool,
}

/// What a step returns.
pub struct StepOutputs<'o> {
    /// `[rows, width, vocab]`, or `[rows, 1, vocab]`.
    pub logits: &'o [f32],
    /// Values of the residual stream, `[rows · width, hidden]` each.
    pub residuals: Vec<&'o [f32]>,
    /// Router scores, `[rows · width, experts]` each.
    pub routers: Vec<&'o [f32]>,
    is_packed: bool,
}

impl StepOutputs<'_> {
    /// The elements of each token in an inner value `[rows · width, size]`; `None` if it is
    /// smaller.
    pub fn by_token<'v>(
        &self,
        step: &Step,
        value: &'v [f32],
        size: usize,
    ) -> Option<Vec<(Position, &'v [f32])>> {
        let mut before = vec![0; step.rows.len()];
        let one = |StepToken { position, column }| {
            let before = &mut before[position.row];
            let column = if self.is_packed { *before } else { column };
            *before += 1;
            let start = (position.row * step.width() + column) * size;
            Some((position, value.get(start..start + size)?))
        };
        step.tokens().map(one).collect()
    }
}

impl ModelSession {
    /// Runs all steps of a plan on rows of token ids, and hands out what each returns.
    pub fn run(
        &mut self,
        plan: &InputPlan,
        rows: &[Vec<u32>],
        progress: &dyn Progress,
        mut visit: impl FnMut(&Step, &StepOutputs) -> Result<()>,
    ) -> Result<()> {
        let Self { session, interface: Interface { signature, caches, .. }, .. } = self;
        let batch = rows.len();
        let total = plan.steps.iter().map(|step| (batch * step.width()) as u64).sum();
        let running = phase(progress, "running the model", Unit::Tokens, total);
        let empty =
            |cache: &Cache| TensorValue::empty(cache.dtype, &[batch, cache.heads, 0, cache.width]);
        let mut past = caches.iter().map(empty).collect::<Result<Vec<_>>>()?;
        let mut masks = vec![Vec::new(); batch];
        for step in &plan.steps {
            if !signature.cache {
                masks.iter_mut().for_each(Vec::clear);
            }
            for (mask, row) in masks.iter_mut().zip(&step.rows) {
                mask.extend(row.iter().map(|token| i64::from(token.is_some())));
            }
            let ids = TensorValue::i64(&[batch, step.width()], ids(step, rows))?;
            let mask = TensorValue::i64(&[batch, masks[0].len()], masks.concat())?;
            let mut inputs = vec![("input_ids", &ids)];
            if signature.mask {
                inputs.push(("attention_mask", &mask));
            }
            inputs.extend(caches.iter().map(|cache| &*cache.past).zip(&past));
            let mut outputs = session.run(&inputs, &|| progress.is_cancelled())?;
            let inner = |names: &[String]| {
                names.iter().map(|name| outputs[name].values()).collect::<Result<Vec<_>>>()
            };
            let logits = outputs["logits"].values()?;
            let (residuals, routers) = (inner(&self.residuals)?, inner(&self.routers)?);
            let is_packed = self.is_packed;
            visit(step, &StepOutputs { logits, residuals, routers, is_packed })?;
            running.advance((batch * step.width()) as u64);
            past = caches.iter().filter_map(|cache| outputs.remove(&cache.present)).collect();
        }
        Ok(())
    }
}

/// The token ids of a step; padding has an id too.
fn ids(step: &Step, rows: &[Vec<u32>]) -> Vec<i64> {
    let id = |row: &[u32], token: &Option<usize>| token.map_or(0, |token| i64::from(row[token]));
    let rows = step.rows.iter().zip(rows);
    rows.flat_map(|(tokens, row)| tokens.iter().map(move |token| id(row, token))).collect()
}
