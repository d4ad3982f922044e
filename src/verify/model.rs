//! A model as it says itself what it takes and gives, and what it makes of texts.

use std::path::Path;

use super::compare::Position;
use super::plan::{Form, Plan, Reading, Step};
use crate::error::{Error, Result, err};
use crate::model::Target;
use crate::progress::{Progress, Unit, phase};
use crate::runtime::{Kind, Port, Session, Tensor};

/// A model that is loaded.
pub struct Model {
    session: Session,
    /// What its inputs and outputs allow.
    pub form: Form,
    /// Numbers in a token's logits.
    pub vocab: u64,
    /// Names of the residual stream's values, where they are outputs.
    pub residuals: Vec<String>,
    /// Names of its routers' scores, where they are outputs.
    pub routers: Vec<String>,
    /// Whether what is inside has each row's padding behind its tokens.
    packed: bool,
    caches: Vec<Cache>,
}

/// Keys or values of a layer.
struct Cache {
    past: String,
    present: String,
    /// Key heads and their width.
    sizes: [usize; 2],
    /// F32 or F16.
    kind: Kind,
}

/// What a step gives.
pub struct Outputs<'o> {
    /// `[rows, places, vocab]`, or of one place.
    pub logits: &'o [f32],
    /// The residual stream's values, `[rows · places, hidden]` each.
    pub residuals: Vec<&'o [f32]>,
    /// The routers' scores, `[rows · places, experts]` each.
    pub routers: Vec<&'o [f32]>,
    /// Whether these have each row's padding behind its tokens.
    packed: bool,
}

impl Outputs<'_> {
    /// Of a value inside, so many numbers for each token of a step; nothing where the model
    /// gives another count of them.
    pub fn by_token<'n>(
        &self,
        step: &Step,
        numbers: &'n [f32],
        width: usize,
    ) -> Option<Vec<(Position, &'n [f32])>> {
        let mut before = vec![0; step.rows.len()];
        let one = |reading: Reading| {
            let Reading { row, token, place } = reading;
            let place = if self.packed { before[row] } else { place };
            before[row] += 1;
            let start = (row * step.width() + place) * width;
            Some((Position { row, token }, numbers.get(start..start + width)?))
        };
        step.tokens().map(one).collect()
    }
}

impl Model {
    /// One that is loaded, and shows nothing but its outputs.
    pub fn new(path: &Path, session: Session, target: Target) -> Result<Self> {
        let ports = Ports::new(path, &session)?;
        let (form, vocab, caches) = (ports.form(), ports.vocab()?, ports.caches()?);
        let (residuals, routers) = (Vec::new(), Vec::new());
        let packed = target == Target::Ort;
        Ok(Self { session, form, vocab, residuals, routers, packed, caches })
    }

    /// Gives it texts by a plan, and hands out what each step gives.
    pub fn run(
        &mut self,
        plan: &Plan,
        texts: &[Vec<u32>],
        progress: &dyn Progress,
        mut visit: impl FnMut(&Step, &Outputs) -> Result<()>,
    ) -> Result<()> {
        let stop = || progress.is_cancelled();
        let batch = texts.len();
        let tokens = plan.steps.iter().map(|step| (batch * step.width()) as u64).sum();
        let running = phase(progress, "running the model", Unit::Tokens, tokens);
        let empty = |cache: &Cache| {
            let [heads, width] = cache.sizes;
            Tensor::empty(cache.kind, &[batch, heads, 0, width])
        };
        let mut past = self.caches.iter().map(empty).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut masks = vec![Vec::new(); batch];
        for step in &plan.steps {
            if !self.form.cache {
                masks = vec![Vec::new(); batch];
            }
            for (mask, row) in masks.iter_mut().zip(&step.rows) {
                mask.extend(row.iter().map(|token| i64::from(token.is_some())));
            }
            let tokens = Tensor::i64(&[batch, step.width()], ids(step, texts))?;
            let mask = Tensor::i64(&[batch, masks[0].len()], masks.concat())?;
            let mut inputs = vec![("input_ids", &tokens)];
            if self.form.mask {
                inputs.push(("attention_mask", &mask));
            }
            inputs.extend(self.caches.iter().map(|cache| cache.past.as_str()).zip(&past));
            let mut found = self.session.run(&inputs, &stop)?;
            let inside = |names: &[String]| {
                let numbers = names.iter().map(|name| found[name].numbers());
                numbers.collect::<std::result::Result<Vec<_>, _>>()
            };
            visit(
                step,
                &Outputs {
                    logits: found["logits"].numbers()?,
                    residuals: inside(&self.residuals)?,
                    routers: inside(&self.routers)?,
                    packed: self.packed,
                },
            )?;
            running.advance((batch * step.width()) as u64);
            let present = self.caches.iter().filter_map(|cache| found.remove(&cache.present));
            past = present.collect();
        }
        Ok(())
    }
}

/// Token ids of a step; padding is a token too.
fn ids(step: &Step, texts: &[Vec<u32>]) -> Vec<i64> {
    let rows = step.rows.iter().zip(texts);
    let ids = rows.flat_map(|(row, text)| {
        row.iter().map(|token| token.map_or(0, |token| i64::from(text[token])))
    });
    ids.collect()
}

/// Inputs and outputs of a model at a path.
struct Ports<'p> {
    path: &'p Path,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl<'p> Ports<'p> {
    /// Those of our models, and no others.
    fn new(path: &'p Path, session: &Session) -> Result<Self> {
        let ports = Self { path, inputs: session.inputs(), outputs: session.outputs() };
        for port in &ports.inputs {
            let (kinds, rank): (&[Kind], _) = match port.name.as_str() {
                "input_ids" | "attention_mask" => (&[Kind::I64], 2),
                name if name.starts_with("past_key_values.") => (&[Kind::F32, Kind::F16], 4),
                _ => return Err(ports.strange(format!("the input `{}`", port.name))),
            };
            if !kinds.contains(&port.kind) || port.shape.len() != rank {
                return Err(ports.strange(format!("an input `{}` of another type", port.name)));
            }
        }
        let axes = ports.input("input_ids").map(|port| &port.shape[..]).unwrap_or_default();
        for (there, what) in [
            (!axes.contains(&Some(0)), "an input `input_ids` of no tokens"),
            (ports.input("input_ids").is_some(), "no input `input_ids`"),
            (
                ports.input("attention_mask").is_some() || ports.past().next().is_none(),
                "a cache and no input `attention_mask`",
            ),
        ] {
            if !there {
                return Err(ports.strange(what.to_owned()));
            }
        }
        Ok(ports)
    }

    fn strange(&self, what: String) -> Error {
        err!("`{}` has {what}: it was not written by gpt-oss-export", self.path.display())
    }

    fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    fn past(&self) -> impl Iterator<Item = &Port> {
        self.inputs.iter().filter(|port| port.name.starts_with("past_key_values."))
    }

    fn logits(&self) -> Result<&Port> {
        let logits = self.outputs.iter().find(|port| port.name == "logits");
        let logits = logits.filter(|port| (port.kind, port.shape.len()) == (Kind::F32, 3));
        logits.ok_or_else(|| {
            self.strange("no output `logits` f32 [rows, tokens, vocabulary]".to_owned())
        })
    }

    fn form(&self) -> Form {
        let ids = &self.input("input_ids").expect("checked").shape;
        let [batch, length] = [ids[0], ids[1]].map(|size| size.map(|size| size as usize));
        let given = self.logits().map(|logits| logits.shape[1]).unwrap_or_default();
        Form {
            batch,
            length,
            cache: self.past().next().is_some(),
            mask: self.input("attention_mask").is_some(),
            last: given == Some(1) && length != Some(1),
        }
    }

    fn vocab(&self) -> Result<u64> {
        let vocab = self.logits()?.shape[2];
        vocab.ok_or_else(|| self.strange("logits of an unknown vocabulary".to_owned()))
    }

    fn caches(&self) -> Result<Vec<Cache>> {
        let cache = |port: &Port| {
            let present = port.name.replacen("past_key_values", "present", 1);
            if !self.outputs.iter().any(|output| output.name == present) {
                return Err(self.strange(format!("no output `{present}`")));
            }
            let size = |axis: usize| {
                let size = port.shape[axis].map(|size| size as usize);
                size.ok_or_else(|| self.strange(format!("an unknown size in `{}`", port.name)))
            };
            let sizes = [size(1)?, size(3)?];
            Ok(Cache { past: port.name.clone(), present, sizes, kind: port.kind })
        };
        self.past().map(cache).collect()
    }
}
