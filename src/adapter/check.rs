//! Checks without a base: whether tensors fit each other and the config, and whether something is
//! missing.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{AdapterFile, Parts};
use super::names::{Module, ModuleForm, Part, of_base};
use crate::checkpoint::ADAPTER_CONFIG;
use crate::container::StoredTensor;
use crate::display::{also, listed};
use crate::error::{Result, bail};
use crate::weights::{FileCache, is_zero};

impl AdapterFile {
    /// Refuses factors and rows that do not fit each other or the config, which no base can mend.
    pub fn check(&self) -> Result<()> {
        let mut wrong = self.modules.iter().filter_map(|(module, it)| self.fault(module, it));
        let Some(first) = wrong.next() else { return Ok(()) };
        bail!("`{}`: {first}{}", self.weights.display(), also("wrong", wrong.count(), "module"));
    }

    /// What is wrong with a module.
    fn fault(&self, module: &Module, parts: &Parts) -> Option<String> {
        if let Some(rows) = parts.get(&Part::Rows) {
            return self.check_tokens(module, rows).err();
        }
        let Module { form, name, .. } = module;
        let [a, b] = [parts.get(&Part::A)?, parts.get(&Part::B)?];
        let shapes = format!("`{}` has shape {:?} and `{}` {:?}", a.name, a.shape, b.name, b.shape);
        if let (ModuleForm::Linear, [first, inner], [other, last]) =
            (form, &a.shape[..], &b.shape[..])
            && first != last
            && inner == other
        {
            return Some(format!(
                "{shapes}, expected [rank, inputs] and [outputs, rank]: exchange their names if lora_A and lora_B are exchanged, or transpose both"
            ));
        }
        let [of_a, of_b] = [a.shape.iter().rev().nth(1)?, b.shape.last()?];
        if of_a != of_b {
            return Some(format!(
                "{shapes}, which have different ranks, {of_a} and {of_b}: use the file that was saved after training"
            ));
        }
        match form {
            ModuleForm::Linear | ModuleForm::Embedding => self.config.scale(name, a.shape[0]).err(),
            ModuleForm::Wrapped(_) => {
                let rank = self.config.rank(name).filter(|rank| of_a % rank != 0)?;
                let (key, _) = self.config.rank_key(name);
                Some(format!(
                    "`{name}` has factors of {of_a} ranks for all experts together, no multiple of {rank}, which key `{key}` of {ADAPTER_CONFIG} says: use the {ADAPTER_CONFIG} that was saved with the file"
                ))
            }
            _ => None,
        }
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

    /// Warns of an adapter that changes nothing in a base of so many layers, or less than its config
    /// names. By default the base has as many layers as the adapter.
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

    /// Warns of modules that the config names and the file lacks.
    fn missing(&self, layers: Option<usize>) -> Option<String> {
        let own = || self.modules.keys().filter_map(|it| it.layer).max().map_or(0, |it| it + 1);
        let there: BTreeSet<&str> = self.modules.keys().map(|it| &*it.path).collect();
        // A module may have several names.
        let mut lacks = BTreeMap::new();
        for (layer, name, path, form) in of_base(layers.unwrap_or_else(own)) {
            let is_there = there.contains(&*path)
                || ["gate", "up"].iter().any(|it| there.contains(&*path.replace("gate_up", it)));
            if !is_there && self.config.names(&name, layer, form) {
                lacks.entry(path).or_insert(name);
            }
        }
        (!lacks.is_empty()).then(|| {
            format!(
                "`{}` has nothing for {}, which its {ADAPTER_CONFIG} names; these stay as they are in the base, as in PEFT: use the whole file and the base that it was trained on{}, unless this is meant",
                self.weights.display(),
                listed(lacks.values()),
                self.config.named_base()
            )
        })
    }
}
