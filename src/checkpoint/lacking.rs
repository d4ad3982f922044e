//! Tensors that a layout lacks: which others stand for them, and how.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::mismatch::{Unmatched, beside, is_attention_bias};
use super::names::{layer, without_numbers};
use super::similar::Similar;
use super::suggest::renaming;
use super::tensors::Missing;
use crate::container::StoredTensor;
use crate::display::{LISTED, listed, noun, plural};
use crate::error::{Error, err};

/// The names of experts' matrices in Mixtral, and in a layout that is read.
const MIXTRAL: [(&str, &str); 3] = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];

/// What makes all lacking tensors of the found ones.
const RENAME: &str = "rename these to those";
const RENAME_AND_TRANSPOSE: &str = "rename these to those and save them with the axes in that order; transpose square matrices too: their shapes hide the order";
const RENAME_SOME: &str =
    "rename these to those of equal size, and leave out the others if the model does not use them";

impl Unmatched<'_> {
    /// The error if most of the model is missing. Layers that nobody has looked for are no other
    /// model's.
    pub fn lacks_most(&self) -> Error {
        let Self { tensors, layout, file, unknown, .. } = self;
        let (path, missing) = (self.tensors.path.display(), &tensors.missing[0].name);
        let wanted = tensors.missing.iter().map(|it| &it.name).chain(tensors.taken.keys());
        let wanted: BTreeSet<String> = wanted.map(|name| without_numbers(name)).collect();
        let is_other = |(name, _): &(&&str, _)| !wanted.contains(&without_numbers(name));
        let others: Vec<_> = unknown.iter().filter(is_other).collect();
        let Some((_, other)) = others.first() else {
            return err!(
                "`{path}` holds {}, and lacks more of the model that `{file}` describes, such as `{missing}`: use the config.json that was saved with these tensors, or copy the missing ones, from the checkpoint that the training began with if it saved trained tensors alone",
                plural(tensors.count(), "tensor")
            );
        };
        let count = plural(others.len(), "tensor");
        err!(
            "`{path}` lacks most tensors of {layout}, such as `{missing}`, and {count} in it, such as `{}`, are none of that layout: they look like another model's, which cannot be exported, and has a config.json of its own; if they are GPT-OSS's, rename them to the names of {layout}",
            other.name
        )
    }

    /// The errors for all that is lacking, with what is unknown in its place.
    pub fn lacks(&mut self) -> Vec<Error> {
        let found = [self.slips(), self.mixtral_experts(), self.other_names(), self.missing()];
        found.into_iter().flatten().collect()
    }

    /// The name under which a missing tensor would be stored.
    fn full(&self, missing: &Missing) -> String {
        format!("{}{}", self.tensors.wrapping.prefix, missing.name)
    }

    /// The error for unknown tensors whose names are slips of lacking ones.
    fn slips(&mut self) -> Option<Error> {
        let similar = Similar::new(self.unknown.keys().copied());
        let (mut slips, mut renamed) = (BTreeSet::new(), Vec::new());
        for lacking in mem::take(&mut self.lacking) {
            let Some(slip) = similar.to(&lacking.name) else {
                self.lacking.push(lacking);
                continue;
            };
            slips.insert(slip);
            renamed.push((self.unknown[slip].name.clone(), self.full(lacking)));
        }
        self.unknown.retain(|name, _| !slips.contains(name));
        (!renamed.is_empty()).then(|| {
            err!(
                "`{}` lacks tensors of the model that its config describes, and holds similar ones: rename {}",
                self.tensors.path.display(),
                renaming(renamed.iter())
            )
        })
    }

    /// The error for experts under Mixtral's names.
    fn mixtral_experts(&mut self) -> Option<Error> {
        // OpenAI's layout has no names for them.
        let is_of_experts = |it: &Missing| it.name.contains(".mlp.experts.");
        if !self.lacking.iter().any(|it| is_of_experts(it)) {
            return None;
        }
        let named: Vec<String> =
            self.unknown.keys().filter_map(|name| as_in_layout(name)).collect();
        let has = |(_, to): &(_, &str)| named.iter().any(|it| it.contains(to));
        let renamed = named.first().filter(|_| MIXTRAL.iter().all(has))?;
        let found = self.take_unknown(|name, _| as_in_layout(name).is_some());
        self.lacking.retain(|it| !is_of_experts(it));
        Some(err!(
            "`{}` holds experts under Mixtral's names: rename `w1` to `gate_proj`, `w3` to `up_proj` and `w2` to `down_proj`, such as `{}` to `{}{renamed}`, if the matrices are `[out, in]`",
            self.tensors.path.display(),
            found[0].name,
            self.tensors.wrapping.prefix
        ))
    }

    /// The error for lacking tensors, and all that is unknown in the same layers: it may stand for them.
    fn other_names(&mut self) -> Option<Error> {
        if self.lacking.is_empty() {
            return None;
        }
        let is_beside = beside(self.tensors, &self.lacking);
        let found = self.take_unknown(|name, _| is_beside(name));
        found.first()?;
        let lacking = mem::take(&mut self.lacking);
        let change = change(&lacking, &found);
        let shown = shaped(lacking.iter().map(|it| (self.full(it), &it.shape[..])).collect());
        let stand_ins = shaped(found.iter().map(|it| (it.name.clone(), &it.shape[..])).collect());
        let is_whole = [RENAME, RENAME_AND_TRANSPOSE, RENAME_SOME].contains(&change);
        let lacks_biases = lacking.iter().any(|it| is_attention_bias(&it.name))
            && !self.tensors.wanted().any(is_attention_bias);
        let biases = if lacks_biases && !is_whole {
            "; set `attention_bias` to false if the model has no biases there"
        } else {
            ""
        };
        Some(err!(
            "`{}` lacks {shown} of {}, and holds {stand_ins}: {change}{}{biases}",
            self.tensors.path.display(),
            self.layout,
            order(&lacking, &found, change)
        ))
    }

    /// The error for tensors for which none stands.
    fn missing(&mut self) -> Option<Error> {
        let lacking = mem::take(&mut self.lacking);
        let it = if lacking.len() == 1 { "it" } else { "them" };
        (!lacking.is_empty()).then(|| {
            err!(
                "`{}` lacks {} {} of the model that its config describes: add {it} from the checkpoint that this one was made from, or download this one again{}",
                self.tensors.path.display(),
                noun(lacking.len(), "tensor"),
                listed(lacking.iter().map(|it| self.full(it))),
                self.tensors.doubt()
            )
        })
    }
}

/// Names with shapes for a sentence: one for all that differ in numbers alone, the first few.
fn shaped(mut tensors: Vec<(String, &[u64])>) -> String {
    const SHOWN: usize = LISTED / 2;
    let (all, mut seen) = (tensors.len(), BTreeSet::new());
    tensors.retain(|(name, shape)| seen.insert((without_numbers(name), *shape)));
    tensors.truncate(SHOWN);
    let more = all - tensors.len();
    let shown = tensors.into_iter().map(|(name, shape)| format!("`{name}` {shape:?}"));
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.collect::<Vec<_>>().join(", ") + &more
}

/// What is to be known of the order of rows for a change, as the end of a sentence.
fn order(lacking: &[&Missing], found: &[&StoredTensor], change: &str) -> &'static str {
    let lacks = |part: &str| lacking.iter().any(|it| it.name.contains(part));
    // As Hugging Face has it, but for the name.
    let has_suffix = |it: &&StoredTensor| it.name.ends_with(".experts.gate_up_proj.weight");
    let is_split = change.starts_with("split");
    if is_split && lacks(".q_proj.") {
        "; rows of q, k and v may lie in groups for each key head, as Megatron has them"
    } else if !lacks(".experts.") {
        ""
    } else if !is_split {
        "; gate and up alternate in a tensor of both"
    } else if found.iter().any(has_suffix) {
        "; even rows of `gate_up_proj` are gate and odd rows up; if it and `down_proj` are `[in, out]`, take `.weight` out of their names instead"
    } else {
        "; in a tensor of gate and up as GPT-OSS has it, even rows are gate and odd rows up, or columns if it is `[in, out]`"
    }
}

/// The name of an expert's tensor in the layout, if it has Mixtral's.
fn as_in_layout(name: &str) -> Option<String> {
    let (_, within) = name.split_once(".experts.")?;
    let mut parts: Vec<&str> = within.split('.').collect();
    let is_renamed = |(from, to)| Some((parts.iter().position(|part| *part == from)?, to));
    let (at, to) = MIXTRAL.into_iter().find_map(is_renamed)?;
    parts[at] = to;
    if at + 1 == parts.len() {
        parts.push("weight");
    }
    Some(format!("model.layers.{}.mlp.experts.{}", layer(name)?, parts.join(".")))
}

/// What makes the lacking tensors of the found ones: numbers of elements tell, names do not.
fn change(lacking: &[&Missing], found: &[&StoredTensor]) -> &'static str {
    let size = |shape: &[u64]| shape.iter().map(|it| i128::from(*it)).product::<i128>();
    // How many more tensors of a size are lacking than were found.
    let mut more = BTreeMap::<i128, i128>::new();
    lacking.iter().for_each(|it| *more.entry(size(&it.shape)).or_default() += 1);
    found.iter().for_each(|it| *more.entry(size(&it.shape)).or_default() -= 1);
    let [some_lacking, some_found] =
        [1, -1].map(|sign| more.values().any(|count| count.signum() == sign));
    let [mut expected, mut there] = [
        lacking.iter().map(|it| &it.shape).collect::<Vec<_>>(),
        found.iter().map(|it| &it.shape).collect(),
    ];
    expected.sort_unstable();
    there.sort_unstable();
    let elements: i128 = more.iter().map(|(size, count)| size * count).sum();
    match (some_lacking, some_found) {
        (false, false) if expected == there => RENAME,
        (false, false) => RENAME_AND_TRANSPOSE,
        (true, false) => "rename these to those of equal size, and add the others",
        (false, true) => RENAME_SOME,
        _ if elements != 0 => {
            "their sizes differ, so other names are not enough: save the model again in that layout"
        }
        _ => match more.values().sum::<i128>().cmp(&0) {
            Ordering::Less => "join these to those",
            Ordering::Equal => "save these in the shapes of those",
            Ordering::Greater => "split these into those",
        },
    }
}
