//! `adapter_config.json`: what scales an adapter, and what nothing here computes.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::path::Path;

use glob::Pattern;
use regex_lite::Regex;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::checkpoint::LARGEST_CONFIG;
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::files::json;

pub const CONFIG: &str = "adapter_config.json";
pub const MERGE: &str = "merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result";

/// Keys that leave what an adapter computes as it is, at any value.
const HARMLESS: [&[&str]; 6] = [
    // Who wrote the file, and for which program.
    &["auto_mapping", "revision", "runtime_config", "task_type", "inference_mode"],
    // Which modules are adapted. PEFT shortens the lists: the names of the tensors say it.
    &["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"],
    &["modules_to_save", "bias", "lora_bias", "ensure_weight_tying"],
    // Training.
    &["lora_dropout", "velora_config"],
    // Settings of methods that other keys turn on.
    &["corda_config", "eva_config", "loftq_config", "lora_ga_config"],
    &["megatron_core", "qalora_group_size"],
];

/// Keys that change what an adapter computes, unless they are absent, null, false or empty.
const METHODS: [(&str, &str); 10] = [
    ("use_dora", "DoRA scales the rows of the adapted matrices"),
    (
        "alora_invocation_tokens",
        "activated LoRA leaves the tokens before an invocation as they are",
    ),
    ("arrow_config", "Arrow chooses among adapters for each token"),
    ("layer_replication", "it repeats layers of the base"),
    ("use_qalora", "QALoRA pools the inputs of its factors"),
    ("use_bdlora", "BD-LoRA has factors of blocks"),
    ("kasa_config", "KaSA truncates the base and scales each rank"),
    ("monteclora_config", "MonteCLoRA draws its factors at random"),
    ("fan_in_fan_out", "its matrices are stored input-major"),
    ("megatron_config", "it adapts the parallel layers of Megatron"),
];

/// Values of `init_lora_weights`, besides true and false, that leave the base as it is.
const INITIALIZATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

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
    ranks: Patterns,
    alphas: Patterns,
    /// Parameters that are adapted, by ends of their names.
    parameters: Vec<String>,
    /// New rows of embeddings, by ends of their modules' names.
    tokens: BTreeMap<String, Vec<u64>>,
}

/// Numbers by regular expressions for ends of names; the first that matches counts.
type Patterns = Vec<(Regex, f64)>;

/// The objects of which the order matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OrderedKeys {
    rank_pattern: Option<Entries>,
    alpha_pattern: Option<Entries>,
}

/// The entries of an object in the file's order.
#[derive(Default)]
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of patterns")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(entry) = map.next_entry()? {
            self.0.push(entry);
        }
        Ok(self)
    }
}

impl AdapterConfig {
    /// Reads a config. Unknown keys are an error of their own, but for those that `ignored`
    /// names or matches.
    pub fn read(path: &Path, ignored: &[String]) -> Result<(Self, Option<Error>)> {
        let (text, file) = (json::read(path, LARGEST_CONFIG)?, path.display().to_string());
        let mut keys = Keys { map: json::parse(&file, &text)?, file };
        keys.map.retain(|_, value| !value.is_null());
        keys.refuse_other_methods()?;
        let ordered: OrderedKeys = json::parse(&keys.file, &text)?;
        let tokens = "trainable_token_indices";
        if let Some(list @ Value::Array(_)) = keys.map.get_mut(tokens) {
            *list = [("embed_tokens", list.take())].into_iter().collect();
        }
        let config = Self {
            base: keys.take("base_model_name_or_path", "a string")?,
            peft_version: keys.take("peft_version", "a string")?,
            rank: keys.take::<NonZero<u64>>("r", "a whole number from 1")?.map(NonZero::get),
            alpha: keys.take("lora_alpha", "a number")?,
            rank_stabilized: keys.take("use_rslora", "true or false")?.unwrap_or(false),
            ranks: keys.patterns("rank_pattern", ordered.rank_pattern)?,
            alphas: keys.patterns("alpha_pattern", ordered.alpha_pattern)?,
            parameters: keys.take("target_parameters", "a list of names")?.unwrap_or_default(),
            tokens: keys.take(tokens, "lists of tokens")?.unwrap_or_default(),
        };
        let unknown = keys.unknown(ignored);
        Ok((config, unknown))
    }

    /// `s` in `W + s·B·A`: `alpha / r`, with `use_rslora` `alpha / √r`, for a module with
    /// factors of this rank. The config has to agree with the rank.
    pub fn scale(&self, module: &str, rank: u64) -> Result<f64, String> {
        let configured = self.rank(module).filter(|it| *it != rank);
        if let Some(other) = configured {
            return Err(format!(
                "`{module}` has factors of rank {rank}, and {CONFIG} says {other} (`r` and `rank_pattern`)"
            ));
        }
        let alpha = first(&self.alphas, &self.adapted(module)).or(self.alpha);
        let alpha = alpha.ok_or_else(|| format!("{CONFIG} lacks the key `lora_alpha`"))?;
        let rank = rank as f64;
        Ok(alpha / if self.rank_stabilized { rank.sqrt() } else { rank })
    }

    /// The rank that the config gives a module.
    pub fn rank(&self, module: &str) -> Option<u64> {
        first(&self.ranks, &self.adapted(module)).map(|rank| (rank as u64).max(1)).or(self.rank)
    }

    /// The name by which patterns know a module: that of its weight if this is a target.
    fn adapted(&self, module: &str) -> String {
        let weight = format!("{module}.weight");
        if self.adapts_parameter(&weight) { weight } else { module.to_owned() }
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
}

fn first(patterns: &Patterns, name: &str) -> Option<f64> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(name)).map(|(_, number)| *number)
}

fn is_end(end: &str, name: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a user's list has a name, or a pattern with `*` and `?` that matches it.
pub fn is_ignored(name: &str, ignored: &[String]) -> bool {
    let matches = |pattern: &String| Pattern::new(pattern).is_ok_and(|it| it.matches(name));
    ignored.iter().any(|it| it == name || matches(it))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The keys that have a value and are still to be read.
struct Keys {
    file: String,
    map: Map<String, Value>,
}

impl Keys {
    fn take<T: DeserializeOwned>(&mut self, key: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.map.remove(key) else { return Ok(None) };
        let invalid = |_| self.invalid(key, expected, &value);
        T::deserialize(&value).map_err(invalid).map(Some)
    }

    fn invalid(&self, key: &str, expected: &str, found: &Value) -> Error {
        err!("`{}`: key `{key}` must be {expected}, found {found}", self.file)
    }

    /// Refuses adapters that are no LoRA or extend it, all keys at once.
    fn refuse_other_methods(&mut self) -> Result<()> {
        let file = self.file.clone();
        // Tinker's configs have no type.
        let kind = self.map.remove("peft_type").unwrap_or_else(|| "LORA".into());
        ensure!(
            kind == "LORA",
            "`{file}`: key `peft_type` must be \"LORA\", found {kind}: {MERGE}"
        );
        let mut errors = Vec::new();
        for (key, what) in METHODS {
            let value = self.map.remove(key).filter(|value| !is_off(value));
            errors.extend(value.map(|_| {
                err!("`{file}`: key `{key}` is set: {what}, which is not supported; {MERGE}")
            }));
        }
        let initialization = self.map.remove("init_lora_weights");
        errors.extend(initialization.filter(|it| !INITIALIZATIONS.map(Value::from).contains(it) && !it.is_boolean()).map(|it| {
            err!("`{file}`: key `init_lora_weights` is {it}: the adapter belongs to a base that this initialization changed; merge it, or save it as plain LoRA, in the program that trained it")
        }));
        Error::all(errors)
    }

    fn patterns(&mut self, key: &str, entries: Option<Entries>) -> Result<Patterns> {
        self.map.remove(key);
        let pattern = |(text, value): (String, Value)| {
            // Python's `re.match(r"(.*\.)?(KEY)$", name)`.
            let Ok(regex) = Regex::new(&format!(r"^(?:.*\.)?(?:{text})$")) else {
                bail!(
                    "`{}`: key `{key}` has the regular expression {text:?}, which is invalid or has lookaround or backreferences: write the names of modules instead",
                    self.file
                );
            };
            let number = value.as_f64();
            Ok((regex, number.ok_or_else(|| self.invalid(key, "an object of numbers", &value))?))
        };
        entries.unwrap_or_default().0.into_iter().map(pattern).collect()
    }

    /// The error of keys that are neither read nor harmless.
    fn unknown(&self, ignored: &[String]) -> Option<Error> {
        let is_harmless = |key: &str| HARMLESS.into_iter().flatten().any(|known| *known == key);
        let unknown = self.map.keys().filter(|key| !is_harmless(key) && !is_ignored(key, ignored));
        let names: Vec<String> = unknown.cloned().collect();
        if names.is_empty() {
            return None;
        }
        let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let error = err!(
            "`{}` has unknown keys: {listed}; ignore those that do not change what the adapter computes",
            self.file
        );
        let keys = names.into_iter().map(|name| (Setting::IgnoreConfigKey, name));
        Some(error.with_remedies(keys.collect()))
    }
}
