//! The modules that an adapter changes, for people.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::file::{AdapterFile, rank};
use super::names::Part;
use super::split_layer;
use crate::display::spans;
use crate::weights::Slot;

/// The same module in several layers.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct AdaptedModules {
    /// Canonical path, without the layer.
    pub module: String,
    /// Numbers of its layers, from 0; none outside the layers.
    pub layers: BTreeSet<usize>,
    /// Ranks of LoRA; none if values are replaced.
    pub ranks: BTreeSet<u64>,
    /// `s` in `W + s·B·A`, without the adapter's weight.
    pub scales: Vec<f64>,
    /// Whether all values, or some rows, are replaced.
    pub is_replaced: bool,
}

impl AdaptedModules {
    /// Modules with these paths, perhaps with ranks.
    pub fn grouped<'p>(modules: impl Iterator<Item = (&'p str, Option<u64>)>) -> Vec<Self> {
        let mut all = Vec::new();
        for (path, rank) in modules {
            Self::entry(&mut all, path).ranks.extend(rank);
        }
        all
    }

    /// The matrices of some slots.
    pub fn swappable<'s>(slots: impl IntoIterator<Item = &'s Slot>) -> Vec<Self> {
        Self::grouped(slots.into_iter().map(|slot| (&*slot.matrix, None)))
    }

    /// Those of several parts of a model.
    pub fn joined<'m>(modules: impl Iterator<Item = &'m Self>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for it in modules {
            match all.iter_mut().find(|known| known.module == it.module) {
                Some(known) => known.layers.extend(&it.layers),
                None => all.push(it.clone()),
            }
        }
        all
    }

    /// The entry of a module, with its layer.
    fn entry<'a>(all: &'a mut Vec<Self>, path: &str) -> &'a mut Self {
        let (layer, name) = split_layer(path);
        let at = all.iter().position(|it| it.module == name).unwrap_or_else(|| {
            all.push(Self { module: name.to_owned(), ..Self::default() });
            all.len() - 1
        });
        all[at].layers.extend(layer);
        &mut all[at]
    }
}

impl AdapterFile {
    /// What it adapts, before there is a base.
    pub fn adapted_modules(&self) -> Vec<AdaptedModules> {
        let mut all: Vec<AdaptedModules> = Vec::new();
        for (module, parts) in &self.modules {
            let entry = AdaptedModules::entry(&mut all, &module.path);
            entry.is_replaced |=
                parts.keys().any(|it| matches!(it, Part::Weight | Part::Bias | Part::Rows));
            let Some(a) = parts.get(&Part::A) else { continue };
            let of_config = || self.config.rank(&module.name);
            let Some(rank) = rank(module.form, &a.shape, None).or_else(of_config) else { continue };
            entry.ranks.insert(rank);
            let scale = self.config.scale(&module.name, rank);
            entry.scales.extend(scale.ok().filter(|scale| !entry.scales.contains(scale)));
        }
        all
    }
}

impl fmt::Display for AdaptedModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, layers, ranks, scales, is_replaced } = self;
        let mut what = Vec::new();
        what.extend((!ranks.is_empty()).then(|| format!("rank {}", joined(ranks))));
        if !scales.is_empty() {
            let scales = scales.iter().map(|scale| (scale * 1e4).round() / 1e4);
            what.push(format!("scale {}", joined(scales)));
        }
        what.extend(is_replaced.then(|| "replaced".to_owned()));
        what.extend(
            (!layers.is_empty()).then(|| format!("layers {}", spans(layers.iter().copied()))),
        );
        if what.is_empty() {
            f.write_str(module)
        } else {
            write!(f, "{module:19} {}", what.join(", "))
        }
    }
}

fn joined(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}
