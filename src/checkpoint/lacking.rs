//! Tensors that a layout lacks: which of those that are there stand for them, and how.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::mismatch::{Unmatched, is_attention_bias};
use super::names::{layer, without_numbers};
use super::similar::Similar;
use super::suggest::renaming;
use super::tensors::{Missing, Tensors};
use crate::container::StoredTensor;
use crate::display::{LISTED, listed, plural};
use crate::error::{Error, err};

/// The names of experts' matrices in Mixtral, and in a layout that is read.
const MIXTRAL: [(&str, &str); 3] = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];

/// What makes all lacking tensors of those that were found.
const RENAME: &str = "rename these to those";
const RENAME_SOME: &str =
    "rename these to those of equal size, and leave out the others if the model does not use them";

/// The error if most of the model is missing. Layers that nobody has looked for are no other
/// model's.
pub fn lacks_most(tensors: &Tensors, left: &Unmatched, layout: &str, file: &str) -> Error {
    let (path, missing) = (tensors.path.display(), &tensors.missing[0].name);
    let wanted = tensors.missing.iter().map(|it| &it.name).chain(tensors.taken.keys());
    let wanted: BTreeSet<String> = wanted.map(|name| without_numbers(name)).collect();
    let is_other = |name: &&&str| !wanted.contains(&without_numbers(name));
    let others: Vec<_> = left.unknown.iter().filter(is_other).collect();
    let Some(other) = others.first() else {
        return err!(
            "`{path}` holds {}, and lacks more of the model that `{file}` describes, such as `{missing}`: use the config.json that was saved with these tensors, or copy the missing ones, from the checkpoint that the training began with if it saved trained tensors alone",
            plural(tensors.count(), "tensor")
        );
    };
    let count = plural(others.len(), "tensor");
    err!(
        "`{path}` lacks most tensors of {layout}, such as `{missing}`, and {count} in it, such as `{}`, are none of that layout: they look like another model's, which cannot be exported, and has a config.json of its own; if they are GPT-OSS's, rename them to the names of {layout}",
        tensors.map[**other].name
    )
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

/// The errors for tensors that are not there: those of which unknown ones may be slips, and
/// others, with all that is unknown in the same layers. It may stand for them, so it is taken out.
pub fn lacks(tensors: &Tensors, left: &mut Unmatched, layout: &str) -> Vec<Error> {
    let similar = Similar::new(left.unknown.iter().copied());
    let meant = left.lacking.iter().map(|it| (*it, similar.to(&it.name)));
    let (slips, others): (Vec<_>, Vec<_>) = meant.partition(|(_, meant)| meant.is_some());
    let mut others: Vec<&Missing> = others.into_iter().map(|(it, _)| it).collect();
    let path = tensors.path.display();
    let full = |it: &Missing| format!("{}{}", tensors.wrapping.prefix, it.name);
    let mut errors = Vec::new();
    if !slips.is_empty() {
        let from = |name: &str| tensors.map[name].name.clone();
        let renamed: Vec<_> =
            slips.iter().filter_map(|(it, meant)| Some((from((*meant)?), full(it)))).collect();
        errors.push(err!(
            "`{path}` lacks tensors of the model that its config describes, and holds similar ones: rename {}",
            renaming(renamed.iter())
        ));
        left.take_unknown(|name| slips.iter().any(|(_, meant)| *meant == Some(name)));
    }
    errors.extend(mixtral_experts(tensors, left, &mut others));
    let layers: BTreeSet<_> = others.iter().map(|it| layer(&it.name)).collect();
    let beside = left.take_beside(tensors, &layers);
    let beside: Vec<&StoredTensor> = beside.into_iter().map(|name| &tensors.map[name]).collect();
    if !beside.is_empty() {
        let lacking = shaped(others.iter().map(|it| (full(it), &it.shape[..])).collect());
        let found = shaped(beside.iter().map(|it| (it.name.clone(), &it.shape[..])).collect());
        let change = change(&others, &beside);
        let has_experts = others.iter().any(|it| it.name.contains(".experts."));
        let has_query = others.iter().any(|it| it.name.contains(".q_proj."));
        // As Hugging Face has it, but for the name.
        let has_suffix = |it: &&StoredTensor| it.name.ends_with(".experts.gate_up_proj.weight");
        let order = if has_query && change.starts_with("split") {
            "; rows of q, k and v may lie in groups for each key head, as Megatron has them"
        } else if !has_experts {
            ""
        } else if change.starts_with("split") && beside.iter().any(has_suffix) {
            "; even rows of `gate_up_proj` are gate and odd rows up; if it and `down_proj` are `[in, out]`, take `.weight` out of their names instead"
        } else if change.starts_with("split") {
            "; in a tensor of gate and up as GPT-OSS has it, even rows are gate and odd rows up, or columns if it is `[in, out]`"
        } else {
            "; gate and up alternate in a tensor of both"
        };
        let is_whole = [RENAME, RENAME_SOME].contains(&change);
        let is_bias = |name: &str| !is_whole && is_attention_bias(name);
        let may_lack = others.iter().any(|it| is_bias(&it.name)) && !tensors.wanted().any(is_bias);
        let biases = if may_lack {
            "; set `attention_bias` to false if the model has no biases there"
        } else {
            ""
        };
        errors.push(err!(
            "`{path}` lacks {lacking} of {layout}, and holds {found}: {change}{order}{biases}"
        ));
    } else if !others.is_empty() {
        let (ending, it) = if others.len() == 1 { ("", "it") } else { ("s", "them") };
        errors.push(err!(
            "`{path}` lacks tensor{ending} {} of the model that its config describes: add {it} from the checkpoint that this one was made from, or download this one again{}",
            listed(others.iter().map(|it| full(it))),
            tensors.doubt()
        ));
    }
    errors
}

/// The error for experts under Mixtral's names, which are taken out.
fn mixtral_experts(
    tensors: &Tensors,
    left: &mut Unmatched,
    lacking: &mut Vec<&Missing>,
) -> Option<Error> {
    // In the layout of which the names can be had.
    let is_of_experts = |it: &Missing| it.name.contains(".mlp.experts.");
    let is_lacking = lacking.iter().any(|it| is_of_experts(it));
    let found = left.take_unknown(|name| is_lacking && as_in_layout(name).is_some());
    let first = found.first()?;
    lacking.retain(|it| !is_of_experts(it));
    Some(err!(
        "`{}` holds experts under Mixtral's names: rename `w1` to `gate_proj`, `w3` to `up_proj` and `w2` to `down_proj`, such as `{}` to `{}{}`, if the matrices are `[out, in]`",
        tensors.path.display(),
        tensors.map[*first].name,
        tensors.wrapping.prefix,
        as_in_layout(first)?
    ))
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

/// What makes the lacking tensors of those that were found: numbers of elements tell, names do not.
fn change(lacking: &[&Missing], found: &[&StoredTensor]) -> &'static str {
    let size = |shape: &[u64]| shape.iter().map(|it| i128::from(*it)).product::<i128>();
    // How many more tensors of a size are lacking than were found.
    let mut more = BTreeMap::<i128, i128>::new();
    lacking.iter().for_each(|it| *more.entry(size(&it.shape)).or_default() += 1);
    found.iter().for_each(|it| *more.entry(size(&it.shape)).or_default() -= 1);
    let [some_lacking, some_found] =
        [1, -1].map(|sign| more.values().any(|count| count.signum() == sign));
    let elements: i128 = more.iter().map(|(size, count)| size * count).sum();
    match (some_lacking, some_found) {
        (false, false) => RENAME,
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
