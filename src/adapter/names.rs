//! The names of tensors in adapters, by PEFT and by Tinker, and what they belong to.

use crate::checkpoint::Config;

/// A module that an adapter changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    pub layer: Option<usize>,
    /// Canonical path: `layers.1.attn.q`, `layers.1.mlp.experts.gate`, `lm_head`; the name of
    /// a vector.
    pub path: String,
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
    A,
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
use Side::{Experts, Heads, Hidden, Inner, Key, Query, TwiceInner, Vocab};

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

/// Stored names, canonical ones, and sides; `N` stands for a layer, `E` for an expert.
const MODULES: [(&str, ModuleForm, &str, &[Side]); 24] = [
    ("model.embed_tokens", ModuleForm::Embedding, "embedding", VOCAB),
    ("lm_head", ModuleForm::Linear, "lm_head", VOCAB),
    ("model.unembed_tokens", ModuleForm::Linear, "lm_head", VOCAB),
    ("model.norm", ModuleForm::Vector, "norm.scale", &[Hidden]),
    ("model.layers.N.input_layernorm", ModuleForm::Vector, "attn.norm.scale", &[Hidden]),
    ("model.layers.N.self_attn.q_proj", ModuleForm::Linear, "attn.q", &[Query, Hidden]),
    ("model.layers.N.self_attn.k_proj", ModuleForm::Linear, "attn.k", &[Key, Hidden]),
    ("model.layers.N.self_attn.v_proj", ModuleForm::Linear, "attn.v", &[Key, Hidden]),
    ("model.layers.N.self_attn.sinks", ModuleForm::Vector, "attn.sinks", &[Heads]),
    ("model.layers.N.self_attn.o_proj", ModuleForm::Linear, "attn.out", &[Hidden, Query]),
    ("model.layers.N.post_attention_layernorm", ModuleForm::Vector, "mlp.norm.scale", &[Hidden]),
    ("model.layers.N.mlp.router", ModuleForm::Linear, "mlp.router", &[Experts, Hidden]),
    ("model.layers.N.mlp.router.linear", ModuleForm::Linear, "mlp.router", &[Experts, Hidden]),
    // Which parameter is wrapped, the name does not say.
    ("model.layers.N.mlp.experts", ModuleForm::Wrapped(0), "mlp.experts", &[]),
    (
        "model.layers.N.mlp.experts.gate_up_proj_bias",
        ModuleForm::Vector,
        "mlp.experts.gate_up.bias",
        &[Experts, TwiceInner],
    ),
    (
        "model.layers.N.mlp.experts.down_proj_bias",
        ModuleForm::Vector,
        "mlp.experts.down.bias",
        &[Experts, Hidden],
    ),
    // unsloth's, and gate, up and down apart.
    (
        "model.layers.N.mlp.experts.gate_up_projs.E",
        ModuleForm::Expert(0),
        "mlp.experts.gate_up",
        GATE_UP,
    ),
    ("model.layers.N.mlp.experts.down_projs.E", ModuleForm::Expert(0), "mlp.experts.down", DOWN),
    (
        "model.layers.N.mlp.experts.E.gate_proj",
        ModuleForm::Expert(0),
        "mlp.experts.gate",
        GATE_OR_UP,
    ),
    ("model.layers.N.mlp.experts.E.up_proj", ModuleForm::Expert(0), "mlp.experts.up", GATE_OR_UP),
    ("model.layers.N.mlp.experts.E.down_proj", ModuleForm::Expert(0), "mlp.experts.down", DOWN),
    // Tinker's.
    ("model.layers.N.mlp.experts.w1", ModuleForm::Stacked, "mlp.experts.gate", GATE_OR_UP),
    ("model.layers.N.mlp.experts.w3", ModuleForm::Stacked, "mlp.experts.up", GATE_OR_UP),
    ("model.layers.N.mlp.experts.w2", ModuleForm::Stacked, "mlp.experts.down", DOWN),
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
    let name = tensor.strip_prefix("base_model.model.").unwrap_or(tensor);
    let (end, part) = PARTS.into_iter().find(|(end, _)| name.ends_with(end))?;
    let wrappers = name.matches(".base_layer").count();
    let name = name.strip_suffix(end)?.replace(".base_layer", "");
    let (mut layer, mut expert, mut pattern) = (None, 0, Vec::new());
    for component in name.split('.') {
        match component.parse::<u32>() {
            Err(_) => pattern.push(component),
            Ok(number) if pattern.last() == Some(&"layers") => {
                layer = Some(number as usize);
                pattern.push("N");
            }
            Ok(number) => {
                expert = u64::from(number);
                pattern.push("E");
            }
        }
    }
    // Tinker's name of the attention, and names that lack the leading `model.`.
    let pattern = pattern.join(".").replace(".N.attn.", ".N.self_attn.");
    let mut modules = MODULES.into_iter();
    let (_, form, path, sides) =
        modules.find(|(it, ..)| *it == pattern || it.strip_prefix("model.") == Some(&pattern))?;
    let form = match form {
        ModuleForm::Expert(_) => ModuleForm::Expert(expert),
        ModuleForm::Wrapped(_) => ModuleForm::Wrapped(wrappers),
        form => form,
    };
    let is_embedding = form == ModuleForm::Embedding;
    let is_supported = match (form, part) {
        (ModuleForm::Vector, part) => part == Part::Weight,
        (ModuleForm::Wrapped(_), Part::A | Part::B) => !end.contains("embedding"),
        (_, Part::A | Part::B) => wrappers == 0 && end.contains("embedding") == is_embedding,
        (ModuleForm::Linear | ModuleForm::Expert(_), Part::BiasOfB) => wrappers == 0,
        (ModuleForm::Linear | ModuleForm::Embedding, Part::Weight) => {
            wrappers <= 1 && !end.is_empty()
        }
        (ModuleForm::Linear, Part::Bias) => wrappers <= 1,
        (ModuleForm::Linear | ModuleForm::Embedding, Part::Rows) => {
            wrappers == 0 && sides[0] == Vocab
        }
        _ => false,
    };
    let path = layer.map_or(path.to_owned(), |layer| format!("layers.{layer}.{path}"));
    is_supported.then_some((Module { layer, path, form, sides, name }, part))
}

impl Side {
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
