//! Models whose adapters a runtime chooses: which matrices these may change, which adapters fit, and
//! what a runtime gets of them.

use std::collections::BTreeSet;
use std::path::Path;

use super::Adapter;
use super::apply::is_copy;
use crate::checkpoint::Checkpoint;
use crate::display::listed;
use crate::error::{Result, Setting, ensure, err};
use crate::graph::Dim;
use crate::onnx::OnnxFile;
use crate::progress::Progress;
use crate::weights::{self, Changes, LowRank, Matrix, Slot, Weight};

/// An adapter for a model that exists or is planned.
pub struct RuntimeAdapter {
    adapter: Adapter,
    /// Those that it changes.
    pub slots: Vec<Slot>,
}

impl RuntimeAdapter {
    /// An adapter for the model at a path with these slots, which have to be for all that it changes.
    pub fn new(adapter: Adapter, model: &Path, slots: &[Slot]) -> Result<Self> {
        require_slots(&adapter, slots, model)?;
        let is_changed = |slot: &&Slot| adapter.terms.iter().any(|it| it.matrix == slot.matrix);
        let slots: Vec<Slot> = slots.iter().filter(is_changed).cloned().collect();
        let file = adapter.file.display();
        ensure!(!slots.is_empty(), "`{file}` changes nothing in the model: leave it out");
        Ok(Self { adapter, slots })
    }

    /// The same for some matrices alone; `None` if it changes none of them.
    pub fn only(&self, is_wanted: impl Fn(&str) -> bool) -> Option<Self> {
        let slots: Vec<Slot> =
            self.slots.iter().filter(|it| is_wanted(&it.matrix)).cloned().collect();
        (!slots.is_empty()).then(|| Self { adapter: self.adapter.clone(), slots })
    }

    /// The names and shapes of A `[r, in]` and B `[out, r]` of a slot, with experts as the first axis.
    pub fn inputs(&self, slot: &Slot) -> [(String, Vec<u64>); 2] {
        let Slot { experts, out, inn, .. } = slot;
        let shape = |sides: [u64; 2]| experts.iter().copied().chain(sides).collect();
        let ([a, b], rank) = (slot.names(), weights::total_rank(&self.terms(slot)));
        [(a, shape([rank, *inn])), (b, shape([*out, rank]))]
    }

    /// The values of A and B of a slot in f32; the scale is in B.
    pub fn factors(&self, slot: &Slot) -> Result<[Vec<f32>; 2]> {
        weights::stack(&self.terms(slot), slot).map_err(|error| {
            let kind = error.kind();
            let file = self.adapter.file.display();
            err!("cannot convert `{file}`").with_kind(kind).with_source(error)
        })
    }

    fn terms(&self, slot: &Slot) -> Vec<&LowRank> {
        self.adapter.terms.iter().filter(|term| term.matrix == slot.matrix).collect()
    }
}

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
    /// The groups that have no matrix in common.
    const DISJOINT: [Self; 5] =
        [Self::Attention, Self::Router, Self::Experts, Self::LmHead, Self::Embedding];

    /// The value of [`Setting::AdapterModules`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::LmHead => "lm-head",
            Self::Embedding => "embedding",
            Self::All => "all",
        }
    }

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
    progress: &dyn Progress,
) -> Result<()> {
    let mut found = BTreeSet::new();
    for it in &adapter.replacements {
        if is_copy(it, stored(&it.weight.name)?.as_ref(), progress)? == Some(false) {
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

/// Refuses an adapter that changes what the model at a path has no slot for.
fn require_slots(adapter: &Adapter, slots: &[Slot], model: &Path) -> Result<()> {
    let is_other = |term: &&LowRank| !slots.iter().any(|slot| slot.takes(term));
    let others: Vec<&String> =
        adapter.terms.iter().filter(is_other).map(|term| &term.path).collect();
    if others.is_empty() {
        return Ok(());
    }
    let changed = adapter.terms.iter().map(|term| &term.matrix);
    let matrices: Vec<&String> = slots.iter().map(|slot| &slot.matrix).chain(changed).collect();
    let is_needed = |group: &ModuleGroup| matrices.iter().any(|matrix| group.has(matrix));
    let groups = ModuleGroup::DISJOINT.into_iter().filter(is_needed).map(ModuleGroup::name);
    let groups = groups.collect::<Vec<_>>().join(",");
    let file = adapter.file.display();
    let error = err!(
        "`{file}` changes {}, for which `{}` has no inputs: export the model with inputs for these",
        listed(others.iter()),
        model.display()
    );
    let settings = [(Setting::AdapterAs, "swappable".into()), (Setting::AdapterModules, groups)];
    Err(error.with_remedies(settings.into()))
}

/// The slots that the optional inputs of a model are for.
pub fn slots_of(onnx: &OnnxFile) -> Vec<Slot> {
    let inputs = onnx.optional.iter().map(|it| (&*it.name, &*it.shape));
    let slot = |(matrix, [a, b]): (&str, [&[Dim]; 2])| {
        let ([experts @ .., _, inn], [.., out, _]) = (a, b) else { return None };
        let experts = match experts {
            [experts] => Some(experts.known()?),
            _ => None,
        };
        Some(Slot { matrix: matrix.to_owned(), experts, out: out.known()?, inn: inn.known()? })
    };
    Slot::paired(inputs).into_iter().filter_map(slot).collect()
}
