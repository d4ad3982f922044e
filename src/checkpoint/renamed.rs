//! Files under other names than those that were saved: by what copying, downloading twice and saving
//! as a text add to names, and by content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::config::LARGEST_CONFIG;
use super::names::numbers;
use super::numbered::NumberedSet;
use super::similar::is_slip;
use crate::container::Header;
use crate::files::json;

/// Keys that every config of a model has, and no other JSON file beside one.
const CONFIG_KEYS: [&str; 3] = ["hidden_size", "num_hidden_layers", "vocab_size"];
/// What is added to names.
const ADDED: [&str; 6] = [".txt", ".bak", ".orig", ".old", ".1", "~"];
/// What begins the part of a name that tells a copy from its original.
const COPY: [&str; 2] = ["(", "copy"];

/// The name of which this one is a variant, such as `config.json` of `config (1).json`,
/// `Config - Copy.JSON` or `config.json.bak`.
fn original(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let lower = ADDED.iter().find_map(|it| lower.strip_suffix(it)).unwrap_or(&lower);
    let without_mark = |part: &str| {
        let at = COPY.iter().filter_map(|mark| part.find(mark)).min();
        part[..at.unwrap_or(part.len())].trim_end_matches([' ', '.', '-', '_']).to_owned()
    };
    let (stem, extension) = lower.rsplit_once('.').unwrap_or((lower, ""));
    format!("{}.{}", without_mark(stem), without_mark(extension))
}

/// The first name of what seems to be a file under a changed name.
pub fn near<'n>(file: &str, mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names.find(|name| {
        let slip = || is_slip(&name.to_lowercase(), file) && numbers(name) == numbers(file);
        original(name) == file || name.strip_prefix(file) == Some(".json") || slip()
    })
}

/// The names of files in a folder that have the content of a model's config.
pub fn configs<'n>(folder: &Path, names: &'n BTreeSet<String>) -> Vec<&'n str> {
    let may_be = |name: &str| name.contains(".json") || name.starts_with("config");
    let has_keys = |name: &str| {
        let text = json::read(&folder.join(name), LARGEST_CONFIG);
        let config = text.and_then(|text| json::parse::<Map<String, Value>>(name, &text));
        config.is_ok_and(|it| CONFIG_KEYS.iter().all(|key| it.contains_key(*key)))
    };
    let names = names.iter().map(String::as_str);
    names.filter(|it| may_be(&it.to_lowercase()) && has_keys(it)).collect()
}

/// The only one of some SafeTensors files in a folder that holds factors of LoRA, and no base with them.
pub fn factors<'n>(folder: &Path, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let is_adapter = |name: &&str| {
        let header = Header::read(&folder.join(name));
        let tensors = header.map(|it| it.tensors).unwrap_or_default();
        let is_factor = |name: &str| [".lora_A", ".lora_B"].iter().any(|it| name.contains(it));
        let is_base = |name: &str| name.contains(".base_layer.") && !is_factor(name);
        tensors.iter().any(|it| is_factor(&it.name)) && !tensors.iter().any(|it| is_base(&it.name))
    };
    let mut found = names.filter(is_adapter);
    found.next().filter(|_| found.next().is_none())
}

/// The only one of some files in a folder that holds all of a shard's `own` tensors.
pub fn shard<'n>(folder: &Path, names: &[&'n String], own: &BTreeSet<&str>) -> Option<&'n str> {
    let holds_all = |name: &&&String| {
        let header = Header::read(&folder.join(name));
        let found = header.iter().flat_map(|it| &it.tensors).map(|it| &*it.name);
        found.filter(|it| own.contains(it)).count() == own.len()
    };
    let mut found = names.iter().filter(|it| is_weights(it)).filter(holds_all);
    found.next().filter(|_| found.next().is_none()).map(|it| it.as_str())
}

/// The files of a numbered set of which some have other names, and the names that they should have;
/// none if the set is not whole with these.
pub fn numbered_set(names: &BTreeSet<String>) -> Vec<(String, String)> {
    let variants = names.iter().filter(|it| is_weights(it));
    let mut by_original = BTreeMap::<String, Vec<&String>>::new();
    variants.for_each(|it| by_original.entry(original(it)).or_default().push(it));
    let set = NumberedSet::of(by_original.keys().map(String::as_str));
    let is_whole = set.is_some_and(|set| set.missing().is_empty());
    if !is_whole || by_original.values().any(|it| it.len() > 1) {
        return Vec::new();
    }
    let files = by_original.into_iter().map(|(to, from)| (from[0].clone(), to));
    files.filter(|(from, to)| from != to).collect()
}

fn is_weights(name: &str) -> bool {
    name.to_lowercase().contains("safetensors") && !name.contains(".json")
}
