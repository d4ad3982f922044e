//! What is wrong with the tensors of a checkpoint: all of it at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;

use super::config::Config;
use super::instead::{instead_of, unfinished_on_hub};
use super::layout::Wrong;
use super::mismatch::Unmatched;
use super::names;
use super::renamed;
use super::selection::INDEX;
use super::suggest::{self, is_safetensors, renaming};
use super::tensors::{AbsentTensor, Missing, Tensors, place};
use crate::container::StoredTensor;
use crate::display::{listed, noun, plural};
use crate::error::{Error, Result, ensure, err};
use crate::files::foreign::{Foreign, NOT_GATHERED};
use crate::tensor::DType;

/// Refuses files without tensors and tensors without elements, before anything is said about shapes.
pub fn refuse_empty(tensors: &Tensors) -> Result<()> {
    let nothing = tensors.map.is_empty() && tensors.absent.is_empty();
    ensure!(!nothing, "`{}` holds no tensors: download it again", tensors.path.display());
    let all = || tensors.map.values().filter(|it| !tensors.is_ignored(&it.name));
    let empty: Vec<_> = all().filter(|it| it.shape.contains(&0)).collect();
    let Some(StoredTensor { name, shape, .. }) = empty.first() else { return Ok(()) };
    Err(err!(
        "{} of {} in `{}` are empty, such as `{name}` of shape {shape:?}, {NOT_GATHERED}, or run zero_to_fp32.py on the folder that DeepSpeed saved",
        empty.len(),
        plural(all().count(), "tensor"),
        tensors.path.display()
    ))
}

/// Refuses missing shards, unless all their tensors are ignored; the rest can only be
/// told with a config.
pub fn require_shards(tensors: Tensors) -> Result<Tensors> {
    let is_missing = |it: &&AbsentTensor| {
        tensors.missing_shards.contains(&it.shard) && !tensors.is_ignored(&it.name)
    };
    let missing: Vec<_> = tensors.absent.values().filter(is_missing).collect();
    Error::all(absences(&tensors, &missing))?;
    Ok(tensors)
}

/// Refuses tensors that a layout has found to be missing or `wrong`, and those that it has not
/// taken, but for ignored ones. The config is read from `file`.
pub fn refuse(
    tensors: &Tensors,
    wrong: Wrong,
    layout: &str,
    config: &Config,
    file: &str,
) -> Result<()> {
    let is_absent = |it: &&Missing| tensors.absent.contains_key(&it.name);
    let (missing, lacking): (Vec<_>, Vec<_>) = tensors.missing.iter().partition(is_absent);
    let is_unknown = |it: &StoredTensor| !tensors.is_ignored(&it.name) && !is_needless(&it.name);
    let unknown = tensors.map.iter().filter(|(_, it)| is_unknown(it));
    let unknown = unknown.map(|(name, it)| (&**name, it)).collect();
    let mut unmatched = Unmatched { tensors, layout, config, file, lacking, unknown };
    // Of tensors that may stand for others nothing else is certain.
    let certain = foreign(&unmatched, tensors.missing.is_empty() && wrong.is_empty());
    if let Some(error) = certain.or_else(|| partial_prefix(&unmatched)) {
        return Err(error);
    }
    let mut absent: Vec<_> = missing.iter().map(|it| &tensors.absent[&it.name]).collect();
    // What another shard holds, or the model lacks, may be in its place.
    let (needed, needless): (Vec<_>, Vec<_>) = unasked_entries(tensors)
        .partition(|it| tensors.unlisted.contains_key(&it.shard) || !unmatched.lacking.is_empty());
    absent.extend(needed);
    let mut errors = absences(tensors, &absent);
    if let Some(error) = wrong.other_config(tensors, config, file) {
        errors.push(error);
        return Error::all(errors);
    }
    if tensors.lacks_most() {
        if errors.is_empty() {
            let error = unmatched.layers();
            errors.push(error.unwrap_or_else(|| unmatched.lacks_most()));
        }
        return Error::all(errors);
    }
    errors.extend(ignored_in_vain(tensors));
    // What a shard holds in the place of those is of another save.
    let shards: BTreeSet<&OsStr> = absent.iter().map(|it| OsStr::new(&it.shard)).collect();
    let is_of = |it: &StoredTensor| it.data.file.file_name().is_some_and(|it| shards.contains(it));
    unmatched.take_unknown(|_, it| is_of(it));
    errors.extend(unmatched.mismatches());
    errors.extend(unmatched.lacks());
    errors.extend(wrong.errors(&tensors.path, file));
    errors.extend(not_part_of(&unmatched));
    errors.extend(in_vain(tensors, &needless));
    Error::all(errors)
}

/// Whether a tensor does not change what the model computes: the frequencies of the rotary
/// embedding, which follow from the config, or a scale of queries, keys or values for a cache in
/// FP8, which a cache of floats does not need.
fn is_needless(name: &str) -> bool {
    let parts: Vec<&str> = name.rsplit('.').collect();
    let is_scale = |it: &str| ["q_scale", "k_scale", "v_scale"].contains(&it);
    match parts[..] {
        ["inv_freq" | "original_inv_freq", "rotary_emb", ..] => true,
        [scale, "self_attn", ..] => is_scale(scale),
        [scale, proj, "self_attn", ..] => {
            is_scale(scale) && proj == format!("{}_proj", &scale[..1])
        }
        _ => false,
    }
}

/// The error for tensors that are not read, and stand for those of the model. If nothing else is
/// missing, they may be needless.
fn foreign(unmatched: &Unmatched, is_complete: bool) -> Option<Error> {
    let (path, taken) = (unmatched.tensors.path.display(), &unmatched.tensors.taken);
    let names: Vec<&str> = unmatched.unknown.values().map(|it| &*it.name).collect();
    let is_scaled =
        |it: &&StoredTensor| matches!(it.dtype, DType::F8E4M3 | DType::F8E5M2 | DType::I8);
    let is_scale = |name: &&&str| name.contains(".mlp.") && name.contains("scale");
    if let Some(StoredTensor { name, dtype, .. }) = taken.values().find(is_scaled)
        && let Some(scales) = names.iter().find(is_scale)
    {
        return Some(err!(
            "`{path}` holds `{name}` in {dtype} with scales, such as `{scales}`, which are not read: dequantize it with the program that wrote it, and save the products in BF16 without the scales"
        ));
    }
    let (name, Foreign { what, remedy, .. }) = Foreign::of_tensors(names.iter().copied())?;
    let error = err!("`{path}` holds {what} (`{name}`): {remedy}");
    if !is_complete {
        return Some(error);
    }
    let error = err!("{error}, or ignore what the model does not use");
    Some(unmatched.tensors.ignoring(error, names).with_another_remedy())
}

fn ignored_in_vain(tensors: &Tensors) -> Vec<Error> {
    let (path, ignored) = (tensors.path.display(), &tensors.ignored);
    let is_used = |name: &String| tensors.left().any(|left| names::matches(name, left));
    let error = |name| {
        err!("nothing to ignore: `{path}` has no unknown tensor `{name}`; leave this name out")
    };
    ignored.of_base(&ignored.tensors).filter(|name| !is_used(name)).map(error).collect()
}

/// What is wrong with the index, which names these absent tensors.
fn absences(tensors: &Tensors, absent: &[&AbsentTensor]) -> Vec<Error> {
    let index = tensors.path.join(INDEX).display().to_string();
    let mut by_shard = BTreeMap::<&String, Vec<&String>>::new();
    absent.iter().for_each(|it| by_shard.entry(&it.shard).or_default().push(&it.name));
    let missing: Vec<&String> =
        tensors.missing_shards.iter().filter(|it| by_shard.remove(it).is_some()).collect();
    let of_missing = (!missing.is_empty()).then(|| missing_shards(tensors, &index, &missing));
    let of_others = by_shard.into_iter().map(|(shard, names)| {
        let (are, it) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
        let (nouns, names) = (noun(names.len(), "tensor"), listed(names.iter()));
        let says = format!("`{index}` says that {nouns} {names} {are} in `{shard}`");
        match tensors.unlisted.get(shard) {
            Some(other) => err!("{says}, which holds others such as `{other}`: they are of different saves, use the index and the shards of one"),
            None => err!("{says}, which does not hold {it}: download both again, or delete the index if the shards hold all tensors"),
        }
    });
    of_missing.into_iter().chain(of_others).collect()
}

/// The error for missing shards, which may be there under other names.
fn missing_shards(tensors: &Tensors, index: &str, missing: &[&String]) -> Error {
    let (path, there) = (&tensors.path, suggest::names(&tensors.path));
    let (are, them, other_names) = match missing {
        [_] => ("is", "it", "another name"),
        _ => ("are", "them", "other names"),
    };
    let shards = format!("{} {}", noun(missing.len(), "shard"), listed(missing.iter()));
    // No other shard.
    let is_free = |it: &&String| !is_safetensors(it.as_ref()) || tensors.unused_files.contains(it);
    let free: Vec<&String> = there.iter().filter(is_free).collect();
    let renamed = missing.iter().filter_map(|shard| {
        let own = tensors.absent.values().filter(|it| it.shard == **shard);
        let own = own.map(|it| &*it.name).collect();
        Some((renamed::shard(path, &free, &own)?.to_owned(), (*shard).clone()))
    });
    let renamed: Vec<_> = renamed.collect();
    let rename = renaming(renamed.iter());
    if renamed.len() == missing.len() {
        return err!(
            "`{index}` names the {shards}, which {are} there under {other_names}: rename {rename}"
        );
    }
    let rename = if renamed.is_empty() { String::new() } else { format!(", and rename {rename}") };
    let instead = instead_of(&there, missing.iter().copied());
    let hub = unfinished_on_hub(path);
    err!("`{index}` names the {shards}, which {are} missing: add {them}{rename}{instead}{hub}")
}

/// The error if lacking names are there with a prefix that not all names have.
fn partial_prefix(Unmatched { tensors, lacking, unknown, .. }: &Unmatched) -> Option<Error> {
    let splits = unknown.keys().flat_map(|name| match names::prefix(name) {
        // Within a layer, where the layout's name begins is certain.
        Some(prefix) => vec![name.split_at(prefix.len())],
        None => name.match_indices('.').map(|(at, _)| name.split_at(at + 1)).collect(),
    });
    let prefixes = splits.filter(|(prefix, _)| !prefix.is_empty());
    let prefixes: HashMap<&str, &str> = prefixes.map(|(prefix, name)| (name, prefix)).collect();
    let prefix = lacking.iter().find_map(|Missing { name, .. }| {
        let short = name.strip_prefix("model.").filter(|it| it.starts_with("layers."));
        prefixes.get(&**name).or_else(|| prefixes.get(short?))
    })?;
    let stored = tensors.stored().filter(|name| !tensors.is_ignored(name));
    let has_it = |name: &&str| tensors.wrapping.unwrapped(name).starts_with(prefix);
    let (with, without): (Vec<_>, Vec<_>) = stored.partition(has_it);
    let (path, first) = (tensors.path.display(), without.first()?);
    if let Some(other) = second_model(prefix, &with, &without) {
        let error = err!(
            "`{path}` holds two models, in tensors whose names begin with `{prefix}` and with `{other}`: ignore the tensors of one"
        );
        return Some(tensors.ignoring(tensors.ignoring(error, without), with));
    }
    let error = err!(
        "`{path}`: the names of {} of {} begin with `{prefix}`, such as `{}`, and others do not, such as `{first}`: a prefix is left out if all names have it; save the language model inside the wrapper, with its head, as GptOssForCausalLM does",
        with.len(),
        plural(with.len() + without.len(), "tensor"),
        with.first().unwrap_or(prefix)
    );
    // Otherwise some without the prefix are of the model too.
    if !tensors.taken.is_empty() {
        return Some(error);
    }
    Some(tensors.ignoring(err!("{error}, or ignore the tensors outside the model"), without))
}

/// The prefix of tensors without the first prefix, if they have the same names behind it.
fn second_model<'n>(prefix: &str, with: &[&str], without: &[&'n str]) -> Option<&'n str> {
    let behind = |names: &[&str], prefix: &str| {
        names.iter().map(|name| Some(name.split_once(prefix)?.1.to_owned())).collect()
    };
    let first: Option<BTreeSet<String>> = behind(with, prefix);
    let ends = without.first()?.match_indices('.').map(|(at, _)| &without[0][..=at]);
    ends.into_iter().find(|other| first.is_some() && behind(without, other) == first)
}

fn not_part_of(Unmatched { tensors, layout, unknown, .. }: &Unmatched) -> Option<Error> {
    let place = place(&tensors.path, unknown.values().map(|it| &*it.data.file))?;
    let names = unknown.values().map(|it| &*it.name);
    let error = err!(
        "`{}` holds tensors that are not part of {layout}: {}; ignore what the model does not use, by name or by a pattern with * and ?",
        place.display(),
        listed(names.clone())
    );
    Some(tensors.ignoring(error, names))
}

/// Entries of the index that no shard has, and no layout has asked for.
fn unasked_entries(tensors: &Tensors) -> impl Iterator<Item = &AbsentTensor> {
    let missing: BTreeSet<&String> = tensors.missing.iter().map(|it| &it.name).collect();
    let is_unasked = move |(key, it): &(&String, &AbsentTensor)| {
        !missing.contains(key) && !tensors.is_ignored(&it.name) && !is_needless(&it.name)
    };
    tensors.absent.iter().filter(is_unasked).map(|(_, it)| it)
}

/// The error for entries that can be ignored.
fn in_vain(tensors: &Tensors, entries: &[&AbsentTensor]) -> Option<Error> {
    let names: Vec<&str> = entries.iter().map(|it| &*it.name).collect();
    let reason = absences(tensors, entries).first()?.to_string();
    let error = err!(
        "{reason}; the model does not use {}: ignore what the index names in vain, by name or by a pattern with * and ?",
        listed(names.iter())
    );
    Some(tensors.ignoring(error, names))
}
