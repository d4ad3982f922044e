//! LoRA adapters, of which only headers are read: what an adapter changes in a base, under
//! canonical names, with recipes for the bytes.
//!
//! An adapter first replaces values, then adds a product of two small matrices to others (LoRA, arXiv
//! 2106.09685, with the scale `s` of PEFT's `LoraLayer`):
//!
//! ```text
//! W' = W + s · B · A        A [r, in], B [out, r]; for experts W, A and B of each expert
//! y  = x·Wᵀ + b + s · ((x·Aᵀ)·Bᵀ + bias of B)
//! ```
//!
//! `A` is here always the factor that inputs meet first, whatever the file calls it.
//!
//! In a swappable model a runtime adds the products, and nothing is replaced.

mod apply;
mod check;
mod config;
mod file;
mod fit;
mod fitted;
mod modules;
mod names;
mod sources;
mod swappable;

use std::path::PathBuf;

pub use apply::apply;
pub use file::AdapterFile;
pub use fit::fit;
pub use fitted::FittedAdapter;
pub use modules::AdaptedModules;
pub use names::{ModuleForm, Part, Side};
pub use sources::{AdapterSource, all_opened, written};
pub use swappable::{ModuleGroup, RuntimeAdapter, add_slots, require_swappable, slots_of};

use crate::checkpoint::MOST_LAYERS;
use crate::error::{Result, ensure};
use crate::weights::{Fingerprint, LowRank, Weight};

/// What an adapter changes in a base, as much of it as its weight says.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The SafeTensors file.
    pub file: PathBuf,
    /// The layers of the base that it fits.
    pub layers: usize,
    /// What the scales of its terms are multiplied by; 1 adds what was trained.
    pub weight: f64,
    /// Values that replace others, before anything is added.
    pub replacements: Vec<Replacement>,
    /// Products that are added, at most one for each module.
    pub terms: Vec<LowRank>,
}

/// Values in the place of a matrix, a vector, or some rows of a matrix. Of an embedding or lm_head
/// with factors PEFT stores the whole matrix too, mostly with the base's own values.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Canonical path of the base's matrix (`embedding`, `layers.0.mlp.router`), or name of its
    /// vector (`layers.0.mlp.router.bias`).
    pub replaced: String,
    /// The rows of these tokens, in this order; all rows if `None`.
    pub tokens: Option<Vec<u64>>,
    /// The rows, in the order of the base's axes.
    pub weight: Weight,
}

/// How PEFT stores the factors of all experts: its versions differ in what is `in` and `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorOrder {
    /// `lora_A [experts·r, in]`, `lora_B [out, r·experts]`
    Plain,
    /// `lora_A [experts·r, out]`, `lora_B [in, r·experts]`
    Swapped,
}

impl Adapter {
    /// The same with this weight in place of 1.
    pub fn weighted(mut self, weight: f64) -> Result<Self> {
        self.weight = weight;
        for term in &mut self.terms {
            term.scale *= weight;
            // Operators compute with it in f32.
            ensure!(
                (term.scale as f32).is_finite(),
                "`{}` scales what it adds to `{}` by {:e}, more than float32 holds: use a smaller weight, or the `lora_alpha` that it was trained with",
                self.file.display(),
                term.path,
                term.scale
            );
        }
        Ok(self)
    }

    /// A fingerprint of what it changes in its base, from samples.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let rows = self.replacements.iter().map(|it| format!("{} {:?}\n", it.replaced, it.tokens));
        let identity: String = rows.chain(self.terms.iter().map(LowRank::identity)).collect();
        let replaced = self.replacements.iter().map(|it| &it.weight);
        Fingerprint::of(&identity, replaced.chain(self.terms.iter().flat_map(LowRank::weights)))
    }
}

/// The layer in a path, and the rest of it; all of the path outside the layers.
fn split_layer(path: &str) -> (Option<usize>, &str) {
    let in_layer = || {
        let (layer, rest) = path.strip_prefix("layers.")?.split_once('.')?;
        Some((layer.parse().ok().filter(|it| *it < MOST_LAYERS)?, rest))
    };
    in_layer().map_or((None, path), |(layer, rest)| (Some(layer), rest))
}
