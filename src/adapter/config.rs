//! `adapter_config.json`: what scales an adapter, and what nothing here computes.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::names::ModuleForm;
use crate::checkpoint::{
    ADAPTER_CONFIG, ConfigReader, Expected, Group, IgnoredNames, LARGEST_CONFIG, any_value,
};
use crate::error::{Error, Result, bail, err};
use crate::files::foreign::{MERGE_ADAPTER, MERGE_MLX};
use crate::files::json::{self, OrderedObject};

/// Keys that leave what an adapter computes as it is.
const HARMLESS: &[Group] = &[
    any_value("who wrote the file", &["auto_mapping", "revision"]),
    // Other tasks are refused before.
    any_value("what the model is for", &["task_type"]),
    any_value("which program runs it", &["runtime_config", "inference_mode"]),
    // PEFT shortens the lists: the names of the tensors say it.
    any_value("which modules are adapted", &["target_modules", "exclude_modules"]),
    any_value("which modules are adapted", &["layers_to_transform", "layers_pattern"]),
    any_value("which values are stored", &["modules_to_save", "bias", "lora_bias"]),
    any_value("which values are stored", &["ensure_weight_tying"]),
    any_value("training", &["lora_dropout", "velora_config"]),
    any_value("methods that other keys turn on", &["corda_config", "eva_config"]),
    any_value("methods that other keys turn on", &["loftq_config", "lora_ga_config"]),
    any_value("methods that other keys turn on", &["megatron_core", "qalora_group_size"]),
];

/// Keys that change what an adapter computes, unless they are absent, null, false or empty, and what to
/// do about the adapter.
const METHODS: [(&str, &str, &str); 10] = [
    ("use_dora", "DoRA scales the rows of the adapted matrices", MERGE_ADAPTER),
    (
        "alora_invocation_tokens",
        "activated LoRA leaves the tokens before an invocation as they are",
        NO_MERGE,
    ),
    ("arrow_config", "Arrow chooses among adapters for each token", NO_MERGE),
    ("layer_replication", "it repeats layers of the base", NO_MERGE),
    ("use_qalora", "QALoRA pools the inputs of its factors", NO_MERGE),
    ("use_bdlora", "BD-LoRA has factors of blocks", MERGE_ADAPTER),
    ("kasa_config", "KaSA truncates the base and scales each rank", MERGE_ADAPTER),
    ("monteclora_config", "MonteCLoRA draws its factors at random", MERGE_ADAPTER),
    ("fan_in_fan_out", "its matrices are stored input-major", MERGE_ADAPTER),
    ("megatron_config", "it adapts the parallel layers of Megatron", MERGE_ADAPTER),
];
/// PEFT refuses to merge these.
const NO_MERGE: &str = "PEFT cannot merge it either: train a LoRA adapter without it instead";

/// Parts of the values of `peft_type` of which nothing can be merged.
const PROMPT_METHODS: [&str; 4] = ["PROMPT", "P_TUNING", "PREFIX_TUNING", "CPT"];
const NO_EXPORT: &str =
    "it adds learned values to prompts, which no weights can hold; train a LoRA adapter instead";
/// Values of `peft_type` for a mixture of adapters.
const MIXTURES: [&str; 2] = ["XLORA", "POLY"];
const NO_MIXTURE: &str = "it mixes adapters anew for each text, which no weights can hold; export one of these adapters, or train a LoRA adapter instead";

/// Values of `task_type` for models with another head.
const OTHER_TASKS: [&str; 3] = ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"];

/// Keys of mlx-lm's configs, and of no others.
const MLX_KEYS: [&str; 2] = ["fine_tune_type", "lora_parameters"];

const INITIALIZATION: &str = "init_lora_weights";
/// Its values, besides true and false, that leave the base as it is.
const INITIALIZATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

const TEXT: Expected<String> = Expected("a string", |it| it.as_str().map(str::to_owned));
const RANK: Expected<u64> =
    Expected("a whole number from 1", |it| it.as_u64().filter(|rank| *rank > 0));
const NUMBER: Expected<f64> = Expected("a number", Value::as_f64);
const BOOL: Expected<bool> = Expected("true or false", Value::as_bool);
const NAMES: Expected<Vec<String>> = Expected("a list of names", |it| Vec::deserialize(it).ok());
const TOKENS: Expected<BTreeMap<String, Vec<u64>>> = Expected("lists of tokens", |it| {
    let of_embedding = Vec::deserialize(it).map(|tokens| [("embed_tokens".into(), tokens)].into());
    of_embedding.or_else(|_| BTreeMap::deserialize(it)).ok()
});

/// The keys of an `adapter_config.json` that decide what an adapter computes.
#[derive(Debug, Default)]
pub struct AdapterConfig {
    /// The base that it names: a path, or a repository of the hub.
    pub base: Option<String>,
    /// `None` before PEFT 0.18 and from other programs.
    pub peft_version: Option<String>,
    rank: Option<u64>,
    alpha: Option<f64>,
    rank_stabilized: bool,
    ranks: Vec<Pattern>,
    alphas: Vec<Pattern>,
    /// Parameters that are adapted, by ends of their names.
    parameters: Vec<String>,
    /// New rows of embeddings, by ends of their modules' names.
    tokens: BTreeMap<String, Vec<u64>>,
    /// Modules that are adapted: a list of ends of names, or a regular expression.
    targets: Value,
    /// The same of modules that are not.
    excluded: Value,
    /// The same of modules that are stored as a whole.
    saved: Value,
    /// Layers that are adapted: a number or several, all if null.
    layers: Value,
}

/// A number by a regular expression for ends of names; of several the first that matches counts.
#[derive(Debug)]
struct Pattern {
    /// As in the config.
    text: String,
    regex: Regex,
    number: f64,
}

/// The objects of which the order matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OrderedKeys {
    rank_pattern: Option<OrderedObject>,
    alpha_pattern: Option<OrderedObject>,
}

impl AdapterConfig {
    /// Reads a config, and says all that is wrong with it. Returns the keys that the user ignores
    /// too, and those of the `ignored` names and patterns that fit one.
    pub fn read(path: &Path, ignored: &[String]) -> Result<(Self, IgnoredNames)> {
        let (text, file) = (json::read(path, LARGEST_CONFIG)?, path.display().to_string());
        let mut keys = ConfigReader::parse(&file, &text, ignored)?;
        let ordered: OrderedKeys = json::parse(&file, &text)?;
        let of_methods = METHODS.map(|(key, ..)| key);
        ["peft_type", INITIALIZATION].iter().chain(&of_methods).for_each(|key| keys.skip(key));
        let value = |key| keys.get(key).cloned().unwrap_or_default();
        let (targets, excluded) = (value("target_modules"), value("exclude_modules"));
        let (saved, layers) = (value("modules_to_save"), value("layers_to_transform"));
        let config = Self {
            base: keys.optional("base_model_name_or_path", &TEXT),
            peft_version: keys.optional("peft_version", &TEXT),
            rank: keys.optional("r", &RANK),
            alpha: keys.optional("lora_alpha", &NUMBER),
            rank_stabilized: keys.optional("use_rslora", &BOOL).unwrap_or(false),
            ranks: patterns(&mut keys, "rank_pattern", ordered.rank_pattern),
            alphas: patterns(&mut keys, "alpha_pattern", ordered.alpha_pattern),
            parameters: keys.optional("target_parameters", &NAMES).unwrap_or_default(),
            tokens: keys.optional("trainable_token_indices", &TOKENS).unwrap_or_default(),
            targets,
            excluded,
            saved,
            layers,
        };
        let of_adapters = keys.used_ignored();
        let (config_keys, unknown) = keys.finish(HARMLESS, |_| Ok(()))?;
        Error::all(unknown)?;
        Ok((config, IgnoredNames { config_keys, of_adapters, ..IgnoredNames::default() }))
    }

    /// Whether a version of PEFT up to 0.18 wrote it, which had one order of factors. What was on its way to
    /// 0.18.0 is of them, and not what was on its way from there to 0.19.
    pub fn is_always_plain(&self) -> bool {
        let version = self.peft_version.as_deref().unwrap_or_default();
        let Some(version) = version.strip_prefix("0.") else { return false };
        let (minor, patch) = version.split_once('.').unwrap_or((version, ""));
        match minor.parse() {
            Ok(0..18) => true,
            Ok(18u32) => {
                let is_before = ["0.dev", "0rc"].iter().any(|it| patch.starts_with(it));
                is_before || patch.parse::<u32>().is_ok()
            }
            _ => false,
        }
    }

    /// Whether PEFT adapts or saves a module of this name and form, by what the config says.
    pub fn names(&self, name: &str, layer: Option<usize>, form: ModuleForm) -> bool {
        let Self { targets, excluded, layers, .. } = self;
        let is_layer = |it: &Value| it.as_u64() == layer.map(|layer| layer as u64);
        let in_layers = match layers {
            Value::Array(list) => list.is_empty() || list.iter().any(is_layer),
            Value::Number(_) => is_layer(layers),
            _ => true,
        };
        let is_target = || has_name(targets, name) && !has_name(excluded, name) && in_layers;
        match form {
            ModuleForm::Wrapped(_) => self.adapts_parameter(name) || self.saves(name),
            ModuleForm::Vector => self.saves(name),
            _ => self.saves(name) || is_target(),
        }
    }

    /// Whether the config says that a module or parameter, or one that contains it, is stored as a whole.
    pub fn saves(&self, name: &str) -> bool {
        let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
        ends.into_iter().any(|end| has_name(&self.saved, &name[..end]))
    }

    /// `s` in `W + s·B·A`: `alpha / r`, with `use_rslora` `alpha / √r`, for a module with
    /// factors of this rank. The config has to agree with the rank.
    pub fn scale(&self, module: &str, rank: u64) -> Result<f64, String> {
        if let Some(other) = self.rank(module).filter(|it| *it != rank) {
            let (key, set) = self.rank_key(module);
            return Err(format!(
                "`{module}` has factors of rank {rank}, and key `{key}` of {ADAPTER_CONFIG} says {other}: use the {ADAPTER_CONFIG} that was saved with the file, or set {set} to {rank}, with the `lora_alpha` of its training"
            ));
        }
        let of_pattern = self.pattern(&self.alphas, module).map(|it| it.number);
        let alpha = of_pattern.or(self.alpha).ok_or_else(|| {
            format!(
                "{ADAPTER_CONFIG} lacks the key `lora_alpha`: add it with its value in training"
            )
        })?;
        let rank = rank as f64;
        Ok(alpha / if self.rank_stabilized { rank.sqrt() } else { rank })
    }

    /// The key that gives a module its rank, and the place of that in it.
    pub fn rank_key(&self, module: &str) -> (&'static str, String) {
        match self.pattern(&self.ranks, module) {
            Some(Pattern { text, .. }) => ("rank_pattern", format!("`{text}` in `rank_pattern`")),
            None => ("r", "`r`".to_owned()),
        }
    }

    /// The rank that the config gives a module.
    pub fn rank(&self, module: &str) -> Option<u64> {
        let of_pattern = self.pattern(&self.ranks, module);
        of_pattern.map(|it| (it.number as u64).max(1)).or(self.rank)
    }

    /// The pattern for a module, whose weight may be the target that it names.
    fn pattern<'p>(&self, patterns: &'p [Pattern], module: &str) -> Option<&'p Pattern> {
        let weight = format!("{module}.weight");
        let name = if self.adapts_parameter(&weight) { &weight } else { module };
        patterns.iter().find(|it| it.regex.is_match(name))
    }

    /// Whether `target_parameters` names a parameter, by the end of its name.
    pub fn adapts_parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|end| is_end(end, name))
    }

    /// The tokens whose rows an adapter replaces in the embedding or lm_head of this name.
    pub fn tokens(&self, module: &str) -> &[u64] {
        let found = self.tokens.iter().find(|(end, _)| is_end(end, module));
        found.map_or(&[], |(_, tokens)| tokens)
    }

    /// The end of a sentence about the base: what the config calls it.
    pub fn named_base(&self) -> String {
        self.base.as_ref().map_or(String::new(), |base| format!(", which it calls `{base}`"))
    }
}

/// Whether a name is among those of a list, by their ends, or matches a regular expression.
fn has_name(names: &Value, name: &str) -> bool {
    match names {
        Value::Array(ends) => ends.iter().filter_map(Value::as_str).any(|end| is_end(end, name)),
        Value::String(text) => {
            Regex::new(&format!("^(?:{text})$")).is_ok_and(|it| it.is_match(name))
        }
        _ => false,
    }
}

fn is_end(end: &str, name: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Refuses adapters that are no LoRA or extend it. What else their files have is no fault.
pub fn refuse_other_methods(path: &Path) -> Result<()> {
    let (text, file) = (json::read(path, LARGEST_CONFIG)?, path.display().to_string());
    let keys = ConfigReader::parse(&file, &text, &[])?;
    if let Some(key) = MLX_KEYS.into_iter().find(|key| keys.has(key)) {
        bail!("`{file}` is mlx-lm's config of an adapter, with the key `{key}`: {MERGE_MLX}");
    }
    let mut errors = Vec::new();
    // Tinker's configs have no type.
    if let Some(kind) = keys.get("peft_type").filter(|kind| **kind != "LORA") {
        let kind_of_prompts = |it: &&str| kind.as_str().is_some_and(|kind| kind.contains(it));
        let is_of_prompts = PROMPT_METHODS.iter().any(kind_of_prompts);
        let is_slip = kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("LORA"));
        let what = match (is_slip, is_of_prompts) {
            (true, _) => "write it in capitals",
            (_, true) => NO_EXPORT,
            _ if MIXTURES.iter().any(|it| kind == it) => NO_MIXTURE,
            _ => MERGE_ADAPTER,
        };
        errors.push(err!("`{file}`: key `peft_type` must be \"LORA\", found {kind}: {what}"));
    }
    if let Some(task) = keys.get("task_type").filter(|task| OTHER_TASKS.iter().any(|it| task == it))
    {
        errors.push(err!(
            "`{file}`: key `task_type` is {task}: the adapter is for a model with another head, and only language models can be exported"
        ));
    }
    let is_set = |key| keys.get(key).is_some_and(|value| !is_off(value));
    errors.extend(METHODS.into_iter().filter(|(key, ..)| is_set(key)).map(
        |(key, what, instead)| {
            err!("`{file}`: key `{key}` is set: {what}, which is not supported; {instead}")
        },
    ));
    let leaves_base =
        |it: &Value| it.is_boolean() || INITIALIZATIONS.iter().any(|known| it == known);
    if let Some(it) = keys.get(INITIALIZATION).filter(|it| !leaves_base(it)) {
        errors.push(err!(
            "`{file}`: key `{INITIALIZATION}` is {it}: the adapter belongs to a base that this initialization changed; merge it, or save it as plain LoRA, in the program that trained it"
        ));
    }
    Error::all(errors)
}

fn patterns(keys: &mut ConfigReader, key: &str, entries: Option<OrderedObject>) -> Vec<Pattern> {
    keys.skip(key);
    let mut patterns = Vec::new();
    for (text, value) in entries.unwrap_or_default().0 {
        // Python's `re.match(r"(.*\.)?(KEY)$", name)`.
        match (Regex::new(&format!(r"^(?:.*\.)?(?:{text})$")), value.as_f64()) {
            (Ok(regex), Some(number)) => patterns.push(Pattern { text, regex, number }),
            (Ok(_), None) => keys.refuse(keys.invalid(key, "an object of numbers", &value)),
            (Err(_), _) => keys.refuse(err!(
                "`{}`: key `{key}` has the regular expression {text:?}, which is invalid or has lookaround or backreferences: write the names of modules instead",
                keys.file
            )),
        }
    }
    patterns
}
