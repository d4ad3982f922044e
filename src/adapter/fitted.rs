//! Adapters that were given for a base: what each changes in it, and what is said of that.

use super::{AdaptedModules, Adapter, AdapterFile, AdapterSource, FactorOrder, fit};
use crate::checkpoint::{AdapterRecord, Config};
use crate::error::{Error, Result};

/// An adapter that fits a base.
pub struct FittedAdapter<'a> {
    /// How it was given.
    pub source: &'a AdapterSource,
    /// What was read of it.
    pub file: &'a AdapterFile,
    /// What it changes, with its weight.
    pub changes: Adapter,
    /// How the metadata of a model lists it.
    pub record: AdapterRecord,
    /// What it changes, for people.
    pub modules: Vec<AdaptedModules>,
}

impl<'a> FittedAdapter<'a> {
    /// Adapters fitted to a base with all of its layers, or the errors of all. Where files do not tell
    /// the order of the factors of experts, `order` does.
    pub fn all(
        sources: impl Iterator<Item = &'a AdapterSource>,
        files: &'a [AdapterFile],
        base: &Config,
        order: Option<FactorOrder>,
    ) -> Result<Vec<Self>> {
        let fitted = sources.zip(files);
        Error::collect(
            fitted.map(|(source, file)| Self::new(source, file, fit(file, base, order)?)),
        )
    }

    /// An adapter that changes this in its base with a weight of 1.
    pub fn new(source: &'a AdapterSource, file: &'a AdapterFile, changes: Adapter) -> Result<Self> {
        source.check()?;
        let record = AdapterRecord {
            name: source.name.clone().unwrap_or_else(|| file.name()),
            source: file.source.clone(),
            fingerprint: changes.fingerprint()?,
            weight: source.weight,
            merged: false,
            ignored: file.ignored.clone(),
        };
        let changes = changes.weighted(source.weight)?;
        Ok(Self { source, file, changes, record, modules: file.adapted_modules() })
    }

    /// Leaves out changes of matrices and vectors that a model lacks. Its record stays that of the
    /// whole.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.changes.replacements.retain(|it| is_there(&it.replaced));
        self.changes.terms.retain(|it| is_there(&it.matrix));
        self.modules.retain_mut(|AdaptedModules { module, layers, .. }| {
            if layers.is_empty() {
                return is_there(module);
            }
            layers.retain(|layer| is_there(&format!("layers.{layer}.{module}")));
            !layers.is_empty()
        });
    }
}
