//! Models whose adapters a runtime chooses: which matrices these may change, and which adapters
//! fit.

use std::collections::BTreeSet;

use super::Adapter;
use super::apply::is_copy;
use crate::checkpoint::{Checkpoint, listed};
use crate::error::{Result, ensure, err};
use crate::weights::{Changes, Matrix, Slot, Weight};

/// Matrices that adapters change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleGroup {
    /// q, k, v and out of all layers.
    Attention,
    Router,
    /// gate_up and down of all layers.
    Experts,
    LmHead,
    Embedding,
    All,
}

impl ModuleGroup {
    /// Whether a matrix with this path belongs to the group.
    fn has(self, matrix: &str) -> bool {
        match self {
            Self::Attention => matrix.contains(".attn."),
            Self::Router => matrix.ends_with(".router"),
            Self::Experts => matrix.contains(".experts."),
            Self::LmHead => matrix == "lm_head",
            Self::Embedding => matrix == "embedding",
            Self::All => true,
        }
    }
}

/// Lets a runtime change the matrices of these groups, and those that some adapters change.
pub fn add_slots<'a>(
    base: &mut Checkpoint,
    groups: &[ModuleGroup],
    adapters: impl Iterator<Item = &'a Adapter>,
) -> Result<()> {
    let is_tied = |it: &&ModuleGroup| [ModuleGroup::LmHead, ModuleGroup::Embedding].contains(it);
    ensure!(
        !base.config.tied || groups.iter().find(is_tied).is_none(),
        "the checkpoint ties its embedding to lm_head, which no adapter changes: programs differ in whether both change; leave them out"
    );
    let adapted: BTreeSet<&str> =
        adapters.flat_map(|it| &it.terms).map(|term| &*term.matrix).collect();
    let is_wanted =
        |path: &str| adapted.contains(path) || groups.iter().any(|group| group.has(path));
    if is_wanted("layers.0.attn.q") || adapted.iter().any(|path| path.contains(".attn.")) {
        base.split_qkv();
    }
    let add = |Matrix { path, experts, out, inn, .. }: &Matrix, changes: &mut Changes| {
        let (matrix, experts, out, inn) = (path.clone(), *experts, *out, *inn);
        changes.slot = is_wanted(path).then_some(Slot { matrix, experts, out, inn });
    };
    base.weights.linears_mut().for_each(|it| add(&it.matrix, &mut it.changes));
    base.weights.experts_mut().for_each(|it| add(&it.matrix, &mut it.changes));
    if !base.config.tied {
        let embedding = &mut base.weights.embedding;
        add(&Matrix::from_weight("embedding", &embedding.weight), &mut embedding.changes);
    }
    Ok(())
}

/// Refuses an adapter that changes more than products: a runtime replaces no values, and adds no
/// biases. `stored` finds the base's weight of a name.
pub fn require_swappable(
    adapter: &Adapter,
    stored: impl Fn(&str) -> Result<Option<Weight>>,
) -> Result<()> {
    let mut found = BTreeSet::new();
    for it in &adapter.replacements {
        if is_copy(it, stored(&it.weight.name)?.as_ref())? == Some(false) {
            found.insert(&it.replaced);
        }
    }
    let biased = adapter.terms.iter().filter(|term| term.bias.is_some());
    found.extend(biased.map(|term| &term.path));
    if found.is_empty() {
        return Ok(());
    }
    Err(err!(
        "`{}` replaces values or adds biases, and a runtime can only add products of factors: {}; a model can have such an adapter inline",
        adapter.file.display(),
        listed(found.iter())
    ))
}
