//! What no base is needed for: whether tensors fit each other and the config, and whether something is
//! missing.

use std::collections::BTreeSet;

use super::also;
use super::file::{AdapterFile, Parts, rank};
use super::names::{Module, ModuleForm, Part, of_base};
use crate::checkpoint::ADAPTER_CONFIG;
use crate::container::StoredTensor;
use crate::display::listed;
use crate::error::{Result, bail};
use crate::weights::{FileCache, is_zero};

impl AdapterFile {
    /// Refuses factors and rows that do not fit each other or the config, which no base can mend.
    pub fn check(&self) -> Result<()> {
        let mut wrong = self.modules.iter().filter_map(|(module, parts)| {
            if let Some(rows) = parts.get(&Part::Rows) {
                return self.check_tokens(module, rows).err();
            }
            let [a, b] = [parts.get(&Part::A)?, parts.get(&Part::B)?];
            let is_exchanged = |a: &[u64], b: &[u64]| {
                matches!((a, b), ([first, inner], [other, last]) if first != last && inner == other)
            };
            if module.form == ModuleForm::Linear && is_exchanged(&a.shape, &b.shape) {
                return Some(format!(
                    "`{}` has shape {:?} and `{}` {:?}, expected [rank, inputs] and [outputs, rank]: exchange their names if lora_A and lora_B are exchanged, or transpose both",
                    a.name, a.shape, b.name, b.shape
                ));
            }
            let [of_a, of_b] = [a.shape.iter().rev().nth(1)?, b.shape.last()?];
            if of_a != of_b {
                return Some(format!(
                    "`{}` has shape {:?} and `{}` {:?}, which have different ranks, {of_a} and {of_b}: use the file that was saved after training",
                    a.name, a.shape, b.name, b.shape
                ));
            }
            let configured = self.config.rank(&module.name);
            if let (ModuleForm::Wrapped(_), Some(rank)) = (module.form, configured)
                && of_a % rank != 0
            {
                return Some(format!(
                    "`{}` has factors of {of_a} ranks for all experts together, no multiple of {rank}, which key `{}` of {ADAPTER_CONFIG} says: use the {ADAPTER_CONFIG} that was saved with the file",
                    module.name,
                    self.config.rank_key(&module.name).0
                ));
            }
            let is_alone = matches!(module.form, ModuleForm::Linear | ModuleForm::Embedding);
            let rank = rank(module.form, &a.shape, None).filter(|_| is_alone)?;
            self.config.scale(&module.name, rank).err()
        });
        let Some(first) = wrong.next() else { return Ok(()) };
        bail!("`{}`: {first}{}", self.weights.display(), also("wrong", wrong.count()));
    }

    /// Refuses new rows that are not one for each token of the config.
    fn check_tokens(&self, module: &Module, rows: &StoredTensor) -> Result<(), String> {
        // A base tells what other shapes lack.
        let [count, _] = rows.shape[..] else { return Ok(()) };
        let listed = self.config.tokens(&module.name);
        let different = listed.iter().collect::<BTreeSet<_>>().len();
        if [listed.len(), different].map(|it| it as u64) == [count; 2] {
            return Ok(());
        }
        Err(format!(
            "key `trainable_token_indices` of {ADAPTER_CONFIG} must list {count} different tokens for `{}`, one for each row of the file, found {different}: use the {ADAPTER_CONFIG} that was saved with the file",
            module.name
        ))
    }

    /// What to tell of an adapter that changes nothing in a base of so many layers, or less than its config
    /// says; by default as many as it has itself.
    pub fn warning(&self, layers: Option<usize>) -> Result<Option<String>> {
        for (module, parts) in &self.modules {
            if !self.adds_nothing(module, parts)? {
                return Ok(self.missing(layers));
            }
        }
        Ok(Some(format!(
            "`{}` changes nothing: in every module a factor has no values but zeros, as before training, or the scale is 0 (`lora_alpha`): use the adapter that was saved after its training",
            self.weights.display()
        )))
    }

    fn adds_nothing(&self, module: &Module, parts: &Parts) -> Result<bool> {
        let is_zero = |part| -> Result<bool> {
            let Some(tensor) = parts.get(&part) else { return Ok(part == Part::BiasOfB) };
            is_zero(&tensor.clone().into(), &mut FileCache::default())
        };
        if [Part::Weight, Part::Bias, Part::Rows].iter().any(|part| parts.contains_key(part)) {
            return Ok(false);
        }
        let rank = self.config.rank(&module.name);
        let scale = rank.and_then(|rank| self.config.scale(&module.name, rank).ok());
        Ok(scale == Some(0.0)
            || (is_zero(Part::B)? || is_zero(Part::A)?) && is_zero(Part::BiasOfB)?)
    }

    /// What to tell of modules that the config names and the file lacks.
    fn missing(&self, layers: Option<usize>) -> Option<String> {
        let own = || self.modules.keys().filter_map(|it| it.layer).max().map_or(0, |it| it + 1);
        let there: BTreeSet<&str> = self.modules.keys().map(|it| &*it.path).collect();
        let lacks = of_base(layers.unwrap_or_else(own)).filter_map(|(layer, name, path, form)| {
            let is_there = there.contains(&*path)
                || ["gate", "up"].iter().any(|it| there.contains(&*path.replace("gate_up", it)));
            (!is_there && self.config.names(&name, layer, form)).then_some(name)
        });
        let lacks: BTreeSet<String> = lacks.collect();
        (!lacks.is_empty()).then(|| {
            let base = self.config.base.as_ref();
            let base = base.map_or(String::new(), |base| format!(", which it calls `{base}`"));
            format!(
                "`{}` has nothing for {}, which its {ADAPTER_CONFIG} names; these stay as they are in the base, as in PEFT: use the whole file and the base that it was trained on{base}, unless this is meant",
                self.weights.display(),
                listed(lacks.iter())
            )
        })
    }
}
