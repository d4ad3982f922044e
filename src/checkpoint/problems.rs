//! What is wrong with the tensors of a checkpoint: all of it at once.

use std::collections::{BTreeSet, HashMap};

use super::foreign::{self, Foreign};
use super::mismatch::{Left, ReadConfig};
use super::names::{self, Similar, nearest};
use super::selection::INDEX;
use super::suggest::{LISTED, listed};
use super::tensors::{AbsentTensor, Tensors};
use crate::container::StoredTensor;
use crate::display::plural;
use crate::error::{Error, Result, err};

/// Refuses tensors without elements, before anything is said about their shapes.
pub fn refuse_empty(tensors: &Tensors) -> Result<()> {
    let all = || tensors.map.values().filter(|it| !tensors.is_ignored(&it.name));
    let empty: Vec<_> = all().filter(|it| it.shape.contains(&0)).collect();
    let Some(StoredTensor { name, shape, .. }) = empty.first() else { return Ok(()) };
    Err(err!(
        "{} of {} in `{}` are empty, such as `{name}` of shape {shape:?}, as DeepSpeed ZeRO-3 saves weights that were not gathered: save again with `stage3_gather_16bit_weights_on_model_save`, or run zero_to_fp32.py on the folder that DeepSpeed saved",
        empty.len(),
        plural(all().count(), "tensor"),
        tensors.path.display()
    ))
}

/// Refuses missing shards, but for those of which all tensors are ignored; the rest can only be
/// told with a config.
pub fn require_shards(tensors: Tensors) -> Result<Tensors> {
    Error::all(absences(&tensors, &wanted_of_missing_shards(&tensors)))?;
    Ok(tensors)
}

/// Tensors in shards that are not there, but for ignored ones.
fn wanted_of_missing_shards(tensors: &Tensors) -> Vec<&String> {
    let is_wanted = |(_, it): &(&String, &AbsentTensor)| {
        tensors.missing_shards.contains(&it.shard) && !tensors.is_ignored(&it.name)
    };
    tensors.absent.iter().filter(is_wanted).map(|(key, _)| key).collect()
}

/// Refuses tensors that a layout has found to be missing or `wrong`, and those that it has not
/// taken, but for ignored ones.
pub fn refuse(
    tensors: &Tensors,
    wrong: Vec<Error>,
    layout: &str,
    config: ReadConfig,
) -> Result<()> {
    if let Some(error) = foreign(tensors, tensors.missing.is_empty() && wrong.is_empty()) {
        return Err(error);
    }
    let is_absent = |name: &&String| tensors.absent.contains_key(*name);
    let (mut absent, lacking): (Vec<_>, Vec<_>) = tensors.missing.iter().partition(is_absent);
    let mut left = Left { lacking, unknown: unknown(tensors).map(|(name, _)| name).collect() };
    if tensors.lacks_most() {
        Error::all(left.layers(tensors, config))?;
        let (path, count) = (tensors.path.display(), tensors.count());
        return Err(err!(
            "`{path}` holds {} and lacks more than {count} of the model that its config describes, such as `{}`: use the config that was saved with these tensors",
            plural(count, "tensor"),
            tensors.missing[0]
        ));
    }
    let mut errors = ignored_in_vain(tensors);
    let (exchanged, needless): (Vec<_>, Vec<_>) =
        needless_entries(tensors).partition(|(_, it)| tensors.unlisted.contains_key(&it.shard));
    absent.extend(exchanged.iter().map(|(key, _)| *key));
    errors.extend(absences(tensors, &absent));
    errors.extend(partial_prefix(tensors, &mut left));
    errors.extend(left.mismatches(tensors, config));
    errors.extend(lacks(tensors, &mut left));
    let more = wrong.len().saturating_sub(LISTED);
    errors.extend(wrong.into_iter().take(LISTED));
    if more > 0 {
        let (path, more) = (tensors.path.display(), plural(more, "other tensor"));
        errors.push(err!("`{path}` holds {more} of the wrong dtype or shape"));
    }
    errors.extend(not_part_of(tensors, layout, &left.unknown));
    errors.extend(in_vain(tensors, &needless));
    Error::all(errors)
}

/// The error for tensors that have the experts of no form of a layout. `outside` are the
/// layout's names outside layers, `expected` is one of its experts.
pub fn no_experts(tensors: &Tensors, outside: &[String], expected: &str) -> Error {
    let is_expert = |name: &&String| name.contains(".experts.");
    // A missing shard may hold the experts.
    let absent = tensors.absent.keys().find(is_expert);
    let missing = wanted_of_missing_shards(tensors);
    if let Some(name) = absent.or(missing.first().copied()) {
        return absences(tensors, &[name]).remove(0);
    }
    if let Some(error) = foreign(tensors, false) {
        return error;
    }
    let in_mlp = tensors.map.keys().filter(|name| name.contains(".mlp."));
    let mut prefixes = in_mlp.filter_map(|name| names::prefix(name));
    if let Some(prefix) = prefixes.find(|prefix| !prefix.is_empty()) {
        return prefix_of_some(tensors, prefix, outside);
    }
    let nearest = nearest(tensors.map.keys().map(String::as_str), expected);
    let found = nearest.map_or_else(String::new, |name| {
        format!("; the most similar name is `{}`", tensors.map[name].name)
    });
    err!(
        "`{}` holds no experts under the names of a supported layout, such as `{expected}`{found}",
        tensors.path.display()
    )
}

/// Tensors that a layout has left and the user does not ignore: names of the layout, and
/// tensors.
fn unknown(tensors: &Tensors) -> impl Iterator<Item = (&str, &StoredTensor)> {
    let is_unknown = |it: &StoredTensor| !tensors.is_ignored(&it.name) && !is_needless(&it.name);
    tensors.map.iter().filter(move |(_, it)| is_unknown(it)).map(|(name, it)| (&**name, it))
}

/// Whether a tensor does not change what the model computes.
fn is_needless(name: &str) -> bool {
    is_rotary(name) || is_cache_scale(name)
}

/// Whether a tensor holds the frequencies of the rotary embedding. They follow from the
/// config, and transformers computes them from it whatever is stored; Megatron-Bridge and older
/// versions of transformers save them.
fn is_rotary(name: &str) -> bool {
    let (module, buffer) = name.rsplit_once('.').unwrap_or_default();
    let module = module.rsplit('.').next().unwrap_or_default();
    module == "rotary_emb" && ["inv_freq", "original_inv_freq"].contains(&buffer)
}

/// Whether a tensor scales queries, keys or values for a cache in FP8, which a cache of floats
/// does not need. Calibration writes them.
fn is_cache_scale(name: &str) -> bool {
    let scales = ["q", "k", "v"].map(|it| [format!("{it}_scale"), format!("{it}_proj.{it}_scale")]);
    let scale = name.rsplit_once(".self_attn.").map(|(_, scale)| scale);
    scale.is_some_and(|scale| scales.as_flattened().iter().any(|it| it == scale))
}

/// The error for tensors that are not read, and stand for those of the model. If nothing else is
/// missing, they may be needless.
fn foreign(tensors: &Tensors, is_complete: bool) -> Option<Error> {
    let names: Vec<&str> = unknown(tensors).map(|(_, it)| &*it.name).collect();
    let Foreign { name, what, remedy } = foreign::find(&names)?;
    let path = tensors.path.display();
    let error = err!("`{path}` holds {what} (`{name}`): {remedy}");
    if !is_complete {
        return Some(error);
    }
    let error = err!("{error}, or ignore what the model does not use");
    Some(tensors.ignoring(error, &names).with_another_remedy())
}

fn ignored_in_vain(tensors: &Tensors) -> Vec<Error> {
    let Tensors { path, map, absent, displaced, ignored, .. } = tensors;
    let stored = map.values().map(|it| &it.name);
    let names = stored.chain(absent.values().map(|it| &it.name)).chain(displaced);
    let is_vain = |pattern: &&String| !names.clone().any(|name| names::matches(pattern, name));
    let error =
        |pattern| err!("nothing to ignore: `{}` has no unknown tensor `{pattern}`", path.display());
    ignored.of_base(&ignored.tensors).filter(is_vain).map(error).collect()
}

/// What is wrong with the index, which names these absent tensors.
fn absences(tensors: &Tensors, absent: &[&String]) -> Vec<Error> {
    let Tensors { path, missing_shards, .. } = tensors;
    let index = path.join(INDEX).display().to_string();
    let entries = absent.iter().map(|name| &tensors.absent[*name]);
    let (of_missing, others): (Vec<_>, Vec<_>) =
        entries.partition(|it| missing_shards.contains(&it.shard));
    let mut errors = Vec::new();
    if !of_missing.is_empty() {
        let shards = listed(missing_shards.iter());
        errors.push(if missing_shards.len() == 1 {
            err!("`{index}` names the shard {shards}, which is missing: add it")
        } else {
            err!("`{index}` names the shards {shards}, which are missing: add them")
        });
    }
    let shards: BTreeSet<&String> = others.iter().map(|it| &it.shard).collect();
    errors.extend(shards.into_iter().map(|shard| {
        let other = tensors.unlisted.get(shard);
        let names = others.iter().filter(|it| it.shard == *shard).map(|it| &it.name);
        let names: Vec<_> = names.collect();
        let (tensors, are, it) =
            if names.len() == 1 { ("tensor", "is", "it") } else { ("tensors", "are", "them") };
        let names = listed(names.into_iter());
        let says = format!("`{index}` says that {tensors} {names} {are} in `{shard}`");
        match other {
            Some(other) => err!("{says}, which holds others such as `{other}`: they are of different saves, use the index and the shards of one"),
            None => err!("{says}, which does not hold {it}"),
        }
    }));
    errors
}

/// The error if `lacking` names are there with a prefix that not all names have. Takes them out of
/// both lists.
fn partial_prefix(tensors: &Tensors, left: &mut Left) -> Option<Error> {
    let Left { lacking, unknown } = left;
    let splits = unknown.iter().flat_map(|name| match names::prefix(name) {
        // Within a layer, where the layout's name begins is certain.
        Some(prefix) => vec![name.split_at(prefix.len())],
        None => name.match_indices('.').map(|(at, _)| name.split_at(at + 1)).collect(),
    });
    let prefixes = splits.filter(|(prefix, _)| !prefix.is_empty());
    let prefixes: HashMap<&str, &str> = prefixes.map(|(prefix, name)| (name, prefix)).collect();
    let prefix_of = |name: &str| {
        let short = name.strip_prefix("model.").filter(|it| it.starts_with("layers."));
        prefixes.get(name).or_else(|| prefixes.get(short?)).copied()
    };
    let prefix = lacking.iter().find_map(|name| prefix_of(name))?;
    lacking.retain(|name| prefix_of(name) != Some(prefix));
    unknown.retain(|name| !name.starts_with(prefix));
    Some(prefix_of_some(tensors, prefix, &[]))
}

/// The error for a prefix of some names. The tensors without it can be ignored if none belongs
/// to the model, as those within a layer and those `outside` do.
fn prefix_of_some(tensors: &Tensors, prefix: &str, outside: &[String]) -> Error {
    let stored = tensors.stored().filter(|name| !tensors.is_ignored(name));
    let has_it = |name: &&str| tensors.wrapping.unwrapped(name).starts_with(prefix);
    let (with, without): (Vec<_>, Vec<_>) = stored.partition(has_it);
    let error = err!(
        "`{}`: the names of {} of {} begin with `{prefix}`, such as `{}`, and others do not, such as {}: a prefix is left out if all names have it; save the module inside the wrapper",
        tensors.path.display(),
        with.len(),
        plural(with.len() + without.len(), "tensor"),
        with.first().unwrap_or(&prefix),
        listed(without.iter().take(1))
    );
    let is_foreign =
        |name: &&str| names::prefix(name) != Some("") && !outside.iter().any(|it| it == name);
    if outside.is_empty() || !without.iter().all(is_foreign) {
        return error;
    }
    tensors.ignoring(err!("{error}, or ignore the tensors outside the model"), &without)
}

/// The errors for tensors that are not there: those of which unknown ones may be slips, which are
/// taken out of the list, and others.
fn lacks(tensors: &Tensors, left: &mut Left) -> Vec<Error> {
    let Left { lacking, unknown } = left;
    let similar = Similar::new(unknown.iter().copied());
    let meant = lacking.iter().map(|name| (*name, similar.to(name)));
    let (slips, others): (Vec<_>, Vec<_>) = meant.partition(|(_, meant)| meant.is_some());
    let Tensors { path, wrapping, .. } = tensors;
    let error = |missing: Vec<(&String, _)>, guess: &str, doubt: &str| {
        let ending = if missing.len() == 1 { "" } else { "s" };
        let names = missing.iter().map(|(name, _)| format!("{}{name}", wrapping.prefix));
        let (path, names) = (path.display(), listed(names));
        err!(
            "`{path}` lacks tensor{ending} {names} of the model that its config describes{guess}{doubt}"
        )
    };
    let mut errors = Vec::new();
    if !slips.is_empty() {
        let meant: Vec<&str> = slips.iter().filter_map(|(_, meant)| *meant).collect();
        unknown.retain(|name| !meant.contains(name));
        let meant = listed(meant.iter().map(|name| &tensors.map[*name].name));
        errors.push(error(slips, &format!(" (did you mean {meant}?)"), ""));
    }
    if !others.is_empty() {
        errors.push(error(others, "", &tensors.doubt()));
    }
    errors
}

fn not_part_of(tensors: &Tensors, layout: &str, unknown: &BTreeSet<&str>) -> Option<Error> {
    let stored: Vec<&StoredTensor> = unknown.iter().map(|name| &tensors.map[*name]).collect();
    let file = &stored.first()?.data.file;
    let is_same = stored.iter().all(|it| it.data.file == *file);
    let place = if is_same { file } else { &*tensors.path };
    let names: Vec<&str> = stored.iter().map(|it| &*it.name).collect();
    let error = err!(
        "`{}` holds tensors that are not part of {layout}: {}; ignore what the model does not use, by name or by a pattern with * and ?",
        place.display(),
        listed(names.iter())
    );
    Some(tensors.ignoring(error, &names))
}

/// Entries of the index that no shard has, and the model does not use.
fn needless_entries(tensors: &Tensors) -> impl Iterator<Item = (&String, &AbsentTensor)> {
    tensors.absent.iter().filter(|(key, it)| {
        !tensors.missing.contains(key) && !tensors.is_ignored(&it.name) && !is_needless(&it.name)
    })
}

/// The error for entries that can be ignored.
fn in_vain(tensors: &Tensors, entries: &[(&String, &AbsentTensor)]) -> Option<Error> {
    let keys: Vec<&String> = entries.iter().map(|(key, _)| *key).collect();
    let names: Vec<&str> = entries.iter().map(|(_, it)| &*it.name).collect();
    let reason = absences(tensors, &keys).first()?.to_string();
    let error = err!(
        "{reason}; the model does not use {}: ignore what the index names in vain, by name or by a pattern with * and ?",
        listed(names.iter())
    );
    Some(tensors.ignoring(error, &names))
}
