//! The modules that an adapter changes, for people.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::file::{AdapterFile, rank};
use super::names::Part;
use crate::display::spans;

/// The same module in several layers.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct AdaptedModules {
    /// Canonical path, without the layer.
    pub module: String,
    pub layers: BTreeSet<usize>,
    /// Ranks of LoRA; none if values are replaced.
    pub ranks: BTreeSet<u64>,
    pub scales: Vec<f64>,
    /// Whether all values, or some rows, are replaced.
    pub is_replaced: bool,
}

impl AdapterFile {
    /// What it adapts, before there is a base.
    pub fn adapted_modules(&self) -> Vec<AdaptedModules> {
        let mut all: Vec<AdaptedModules> = Vec::new();
        for (module, parts) in &self.modules {
            let layer = module.layer.map_or_else(String::new, |layer| format!("layers.{layer}."));
            let name = module.path.strip_prefix(&layer).unwrap_or(&module.path);
            let at = all.iter().position(|it| it.module == name).unwrap_or_else(|| {
                all.push(AdaptedModules { module: name.to_owned(), ..AdaptedModules::default() });
                all.len() - 1
            });
            let entry = &mut all[at];
            entry.layers.extend(module.layer);
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
        if !ranks.is_empty() {
            let scales = scales.iter().map(|scale| (scale * 1e4).round() / 1e4);
            what.push(format!("rank {}, scale {}", joined(ranks), joined(scales)));
        }
        what.extend(is_replaced.then(|| "replaced".to_owned()));
        what.extend(
            (!layers.is_empty()).then(|| format!("layers {}", spans(layers.iter().copied()))),
        );
        write!(f, "{module:19} {}", what.join(", "))
    }
}

fn joined(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}
