//! The names of tensors in adapters, by PEFT and by Tinker, and what they belong to.

use super::split_layer;
use crate::checkpoint::{Config, WRAPPERS, most_like};

/// A module that an adapter changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// `None` outside the layers.
    pub layer: Option<usize>,
    /// Canonical path: `layers.1.attn.q`, `layers.1.mlp.experts.gate`, `lm_head`; the name of
    /// a vector.
    pub path: String,
    /// How its tensors are to be read.
    pub form: ModuleForm,
    /// `[out, in]` of a matrix, the shape of a vector.
    pub sides: &'static [Side],
    /// Its name in the file, by which a config speaks of it: `model.layers.1.self_attn.q_proj`.
    pub name: String,
}

/// How an adapter changes a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModuleForm {
    Linear,
    /// A table of rows, of which tokens choose.
    Embedding,
    /// The linear module of one expert.
    Expert(u64),
    /// The matrices of all experts, with experts as the first axis of the factors.
    Stacked,
    /// The matrices of all experts as one parameter, which PEFT wraps: each factor is a matrix
    /// with the ranks of all experts. Of several wrappers the innermost has the highest number.
    Wrapped(usize),
    /// A vector, which has no factors.
    Vector,
}

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The factor that the file calls `A`.
    A,
    /// The factor that the file calls `B`.
    B,
    /// `lora_B.bias`, which is scaled as the product is.
    BiasOfB,
    /// The whole matrix, or the whole vector.
    Weight,
    /// The whole bias.
    Bias,
    /// Some rows of the matrix.
    Rows,
}

/// A size of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Vocab,
    Hidden,
    Heads,
    /// All query heads.
    Query,
    /// All key heads, or all value heads.
    Key,
    Inner,
    TwiceInner,
    Experts,
}
use ModuleForm::{Embedding, Expert, Linear, Stacked, Vector, Wrapped};
use Side::{Experts, Heads, Hidden, Inner, Key, Query, TwiceInner, Vocab};

/// How PEFT's names begin.
const PEFT_PREFIX: &str = "base_model.model.";

/// Ends of names; the first that fits counts.
const PARTS: [(&str, Part); 9] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_B.bias", Part::BiasOfB),
    (".lora_embedding_A", Part::A),
    (".lora_embedding_B", Part::B),
    (".token_adapter.trainable_tokens_delta", Part::Rows),
    (".weight", Part::Weight),
    (".bias", Part::Bias),
    ("", Part::Weight),
];

const VOCAB: &[Side] = &[Vocab, Hidden];
const GATE_UP: &[Side] = &[TwiceInner, Hidden];
const GATE_OR_UP: &[Side] = &[Inner, Hidden];
const DOWN: &[Side] = &[Hidden, Inner];

/// Stored name, form, canonical path, and sides.
type Known = (&'static str, ModuleForm, &'static str, &'static [Side]);

/// Modules outside the layers.
const OUTSIDE: [Known; 4] = [
    ("embed_tokens", Embedding, "embedding", VOCAB),
    ("lm_head", Linear, "lm_head", VOCAB),
    ("unembed_tokens", Linear, "lm_head", VOCAB),
    ("norm", Vector, "norm.scale", &[Hidden]),
];

/// Modules of each layer; `E` stands for an expert.
const IN_LAYER: [Known; 20] = [
    ("input_layernorm", Vector, "attn.norm.scale", &[Hidden]),
    ("self_attn.q_proj", Linear, "attn.q", &[Query, Hidden]),
    ("self_attn.k_proj", Linear, "attn.k", &[Key, Hidden]),
    ("self_attn.v_proj", Linear, "attn.v", &[Key, Hidden]),
    ("self_attn.sinks", Vector, "attn.sinks", &[Heads]),
    ("self_attn.o_proj", Linear, "attn.out", &[Hidden, Query]),
    ("post_attention_layernorm", Vector, "mlp.norm.scale", &[Hidden]),
    ("mlp.router", Linear, "mlp.router", &[Experts, Hidden]),
    ("mlp.router.linear", Linear, "mlp.router", &[Experts, Hidden]),
    // Which parameter is wrapped, the name does not say.
    ("mlp.experts", Wrapped(0), "mlp.experts", &[]),
    ("mlp.experts.gate_up_proj_bias", Vector, "mlp.experts.gate_up.bias", &[Experts, TwiceInner]),
    ("mlp.experts.down_proj_bias", Vector, "mlp.experts.down.bias", &[Experts, Hidden]),
    // unsloth's, and gate, up and down apart.
    ("mlp.experts.gate_up_projs.E", Expert(0), "mlp.experts.gate_up", GATE_UP),
    ("mlp.experts.down_projs.E", Expert(0), "mlp.experts.down", DOWN),
    ("mlp.experts.E.gate_proj", Expert(0), "mlp.experts.gate", GATE_OR_UP),
    ("mlp.experts.E.up_proj", Expert(0), "mlp.experts.up", GATE_OR_UP),
    ("mlp.experts.E.down_proj", Expert(0), "mlp.experts.down", DOWN),
    // Tinker's.
    ("mlp.experts.w1", Stacked, "mlp.experts.gate", GATE_OR_UP),
    ("mlp.experts.w3", Stacked, "mlp.experts.up", GATE_OR_UP),
    ("mlp.experts.w2", Stacked, "mlp.experts.down", DOWN),
];

/// The parameters of the experts' module, in the order in which PEFT wraps them.
pub const PARAMETERS: [(&str, &str, &[Side]); 4] = [
    ("gate_up_proj", "gate_up", GATE_UP),
    ("gate_up_proj_bias", "gate_up.bias", &[]),
    ("down_proj", "down", DOWN),
    ("down_proj_bias", "down.bias", &[]),
];

/// The module that a tensor belongs to, and what it is there; `None` if no GPT-OSS model has
/// such a module, or the tensor adapts it in a way that is not supported.
pub fn place(tensor: &str) -> Option<(Module, Part)> {
    let name = tensor.strip_prefix(PEFT_PREFIX).unwrap_or(tensor);
    let (end, part) = PARTS.into_iter().find(|(end, _)| name.ends_with(end))?;
    let wrappers = name.matches(".base_layer").count();
    let name = name.strip_suffix(end)?.replace(".base_layer", "");
    let (layer, module) = split_layer(name.strip_prefix("model.").unwrap_or(&name));
    let expert = module.split('.').find_map(|it| it.parse::<u32>().ok()).unwrap_or(0);
    let is_number = |part: &&str| part.parse::<u32>().is_ok();
    let pattern = module.split('.').map(|it| if is_number(&it) { "E" } else { it });
    let pattern = pattern.collect::<Vec<_>>().join(".");
    let known = if layer.is_some() { &IN_LAYER[..] } else { &OUTSIDE };
    // Tinker's name of the attention is shorter.
    let is_it = |it: &str| it == pattern || it.strip_prefix("self_") == Some(&pattern);
    let (_, form, path, sides) = *known.iter().find(|(it, ..)| is_it(it))?;
    let form = match form {
        Expert(_) => Expert(expert.into()),
        Wrapped(_) => Wrapped(wrappers),
        form => form,
    };
    let is_of_embedding = end.contains("embedding");
    let is_supported = match (form, part) {
        (Vector, part) => part == Part::Weight,
        (Wrapped(_), Part::A | Part::B) => !is_of_embedding,
        (_, Part::A | Part::B) => wrappers == 0 && is_of_embedding == (form == Embedding),
        (Linear | Expert(_), Part::BiasOfB) => wrappers == 0,
        (Linear | Embedding, Part::Weight) => wrappers <= 1 && !end.is_empty(),
        (Linear, Part::Bias) => wrappers <= 1,
        (Linear | Embedding, Part::Rows) => wrappers == 0 && sides[0] == Vocab,
        _ => false,
    };
    let path = layer.map_or(path.to_owned(), |layer| format!("layers.{layer}.{path}"));
    is_supported.then_some((Module { layer, path, form, sides, name }, part))
}

/// Parts of names of which the next one is an adapter's name in a state dict. A file has the first
/// without it, and not the others.
const BEFORE_ADAPTERS: [&str; 2] = ["trainable_tokens_delta", "modules_to_save"];

/// The name by which PEFT would save a tensor of a state dict, or one of which a part is misspelt:
/// without wrappers, and without the name of the adapter.
pub fn as_saved(tensor: &str) -> Option<String> {
    const FACTORS: [&str; 4] = ["lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"];
    let is_wrapper =
        |part: &&str| *part == "module" || WRAPPERS.iter().any(|(wrapper, _)| wrapper == part);
    let plain = |part: &str| part.to_lowercase().replace('_', "");
    let factor = |part: &str| match &*plain(part) {
        "loradown" => Some("lora_A"),
        "loraup" => Some("lora_B"),
        written => FACTORS.into_iter().find(|it| plain(it) == written),
    };
    let mut rest = tensor;
    while let Some(inner) = rest.strip_prefix(PEFT_PREFIX).filter(|it| it.starts_with(PEFT_PREFIX))
    {
        rest = inner;
    }
    let mut parts = Vec::new();
    for part in rest.split('.').filter(|part| !is_wrapper(part)) {
        parts.push(factor(part).unwrap_or(part));
    }
    let with_adapter = parts.join(".");
    let has_adapter = |part: &&str| FACTORS.contains(part) || BEFORE_ADAPTERS.contains(part);
    if let Some(at) = parts.iter().position(has_adapter) {
        if parts.get(at + 1).is_some_and(|next| !["weight", "bias"].contains(next)) {
            parts.remove(at + 1);
        }
        if parts[at] == BEFORE_ADAPTERS[1] {
            parts.remove(at);
        }
    }
    let is_right = |name: &String| name != tensor && place(name).is_some();
    let plain = [with_adapter, parts.join(".")].into_iter().find(is_right);
    plain.or_else(|| {
        let spelt = (0..parts.len()).filter_map(|at| {
            let known = IN_LAYER.iter().chain(&OUTSIDE).flat_map(|(name, ..)| name.split('.'));
            let mut parts = parts.clone();
            parts[at] = most_like(parts[at], known, |it| it)?;
            Some(parts.join("."))
        });
        spelt.into_iter().find(is_right)
    })
}

/// The modules that a config can name of a base with so many layers: their layer, their name in
/// transformers, their canonical path and form.
pub fn of_base(layers: usize) -> Vec<(Option<usize>, String, String, ModuleForm)> {
    let is_named = |known: &&Known| matches!(known.1, Linear | Embedding | Vector);
    let mut modules = Vec::new();
    for (name, form, path, _) in OUTSIDE.iter().filter(is_named) {
        let prefix = if *form == Linear { "" } else { "model." };
        modules.push((None, format!("{prefix}{name}"), (*path).to_owned(), *form));
    }
    for layer in 0..layers {
        let mut add = |name: &str, path: &str, form| {
            let name = format!("model.layers.{layer}.{name}");
            modules.push((Some(layer), name, format!("layers.{layer}.{path}"), form));
        };
        for (name, form, path, _) in IN_LAYER.iter().filter(is_named) {
            add(name, path, *form);
        }
        for (name, path, _) in PARAMETERS.iter().filter(|(.., sides)| !sides.is_empty()) {
            add(&format!("mlp.experts.{name}"), &format!("mlp.experts.{path}"), Wrapped(0));
        }
    }
    modules
}

impl ModuleForm {
    pub fn is_wrapped(self) -> bool {
        matches!(self, Wrapped(_))
    }
}

impl Side {
    /// Its number in a base; that of experts depends on the layer.
    pub fn size(self, config: &Config, layer: Option<usize>) -> u64 {
        match self {
            Vocab => config.vocab_size,
            Hidden => config.hidden_size,
            Heads => config.num_heads,
            Query => config.num_heads * config.head_dim,
            Key => config.num_kv_heads * config.head_dim,
            Inner => config.intermediate_size,
            TwiceInner => 2 * config.intermediate_size,
            Experts => layer.and_then(|layer| config.experts.get(layer)).copied().unwrap_or(0),
        }
    }
}
