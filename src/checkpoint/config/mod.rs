//! `config.json`, in either dialect.

mod known;
mod reader;
mod rope;
mod unknown;
mod values;

use serde_json::Value;

use super::ignored::IgnoredNames;
use super::similar::resembles;
use crate::display::plural;
use crate::error::{Error, Result, Setting, bail, err};
use crate::files::foreign::USE_SOURCE;
pub use known::{Group, any as any_value};
use reader::{BOOL, LAYERS, LIST, NAME, POSITIVE, RESTORE, SIZE, SIZE_OR_ZERO};
pub use reader::{ConfigReader, Expected, MOST_LAYERS};
pub use values::{Config, Rope};

/// Longest `config.json` that is read. Released ones have 2 kB.
pub const LARGEST_CONFIG: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `ModelConfig` of OpenAI's implementation, as in `original/config.json`.
    OpenAi,
    /// `GptOssConfig` of transformers, versions 4 and 5, or NVIDIA's `gpt_oss_puzzle`.
    HuggingFace,
}

const GPT_OSS: &str = "gpt_oss";
/// The `quant_method` of the released models.
const MXFP4: &str = "mxfp4";
/// The `model_type` of NVIDIA's Puzzle models, whose layers differ from each other.
pub const PUZZLE: &str = "gpt_oss_puzzle";
/// The key of a Puzzle config with an object for each layer.
pub const BLOCKS: &str = "block_configs";
const LIMIT: &str = "swiglu_limit";
const EPSILON: &str = "rms_norm_eps";
const BIASES: &str = "attention_bias";
const LAYER_TYPES: &str = "layer_types";

/// Keys whose null is not their default, what they must be, and what null does.
const NEVER_NULL: [(&str, &str, &str); 3] = [
    (
        LIMIT,
        POSITIVE.0,
        "which transformers cannot compute with: write the limit of the training, 7.0 in the released models",
    ),
    (
        EPSILON,
        POSITIVE.0,
        "which transformers cannot compute with: write the value of the training, 1e-05 in the released models",
    ),
    (
        BIASES,
        BOOL.0,
        "which transformers 4 takes for false and 5 refuses: write true if attention has biases, as in the released models, and false if not",
    ),
];

/// Keys that a config of one dialect has and of the other has not; the first may be misspelled.
const HUGGING_FACE: [&str; 7] = [
    "model_type",
    "architectures",
    "rope_scaling.",
    "rope_parameters.",
    "num_local_experts",
    "num_experts_per_tok",
    "max_position_embeddings",
];
const OPENAI: [&str; 4] = ["num_experts", "rope_scaling_factor", "rope_ntk_alpha", "rope_ntk_beta"];

/// What a `config.json` says.
#[derive(Debug)]
pub struct ConfigFile {
    pub config: Config,
    pub dialect: Dialect,
    /// The keys that the user ignores, but for those that change nothing.
    pub ignored: Vec<String>,
    /// The error for unknown keys, to be reported with those of the tensors.
    pub unknown: Option<Error>,
}

impl ConfigFile {
    /// Parses and checks a `config.json`, and says all that is wrong with it. Unknown keys are
    /// errors unless `ignored` has them, by name or by a pattern with `*` and `?`. The number of
    /// layers of which there are tensors, if it is known, tells which of two others is wrong.
    pub fn read(
        file: &str,
        text: &[u8],
        ignored: &IgnoredNames,
        layers_there: Option<u64>,
    ) -> Result<Self> {
        let mut keys = ConfigReader::parse(file, text, &ignored.config_keys)?;
        keys.layers_there = layers_there;
        refuse_outer(&keys)?;
        let has_any = |marks: &[&str]| marks.iter().any(|mark| keys.has(mark));
        let (config, dialect, groups) = if has_any(&HUGGING_FACE) {
            (hugging_face(&mut keys)?, Dialect::HuggingFace, known::HUGGING_FACE)
        } else if has_any(&OPENAI) {
            (openai(&mut keys), Dialect::OpenAi, known::OPENAI)
        } else if ["pretrained_config", "architecture"].iter().any(|key| keys.get(key).is_some()) {
            bail!("`{file}` is a config of TensorRT-LLM, not of a checkpoint: {USE_SOURCE}");
        } else {
            bail!(
                "`{file}` is no config of a model: it has neither the key `model_type`, as Hugging Face's have, nor `{}`, as OpenAI's have; use the config.json that was saved with the weights",
                OPENAI[0]
            );
        };
        let (ignored, unknown) = keys.finish(groups, |keys| {
            config.check(file)?;
            let unused = ignored.of_base(&ignored.config_keys).filter(|it| !keys.uses(it));
            Error::all(unused.map(|it| {
                err!("nothing to ignore: `{file}` has no unknown key `{it}`; leave this name out")
            }))
        })?;
        Ok(Self { config, dialect, ignored, unknown })
    }
}

/// The keys that both dialects have; the other fields are still to be read.
fn common(keys: &mut ConfigReader) -> Config {
    NEVER_NULL.iter().for_each(|(key, expected, reason)| keys.refuse_null(key, expected, reason));
    Config {
        vocab_size: keys.required("vocab_size", &SIZE),
        hidden_size: keys.required("hidden_size", &SIZE),
        intermediate_size: keys.required("intermediate_size", &SIZE),
        num_heads: keys.required("num_attention_heads", &SIZE),
        num_kv_heads: keys.required("num_key_value_heads", &SIZE),
        head_dim: keys.required("head_dim", &SIZE),
        swiglu_limit: keys.optional(LIMIT, &POSITIVE).unwrap_or(7.0),
        experts: Vec::new(),
        experts_per_token: 0,
        windows: Vec::new(),
        rms_norm_eps: 0.0,
        rope: Rope::default(),
        tied: false,
        attention_bias: true,
    }
}

/// The model's definition: even layers have the window, odd layers see everything.
fn alternating_windows(layers: u64, window: Option<u64>) -> Vec<Option<u64>> {
    (0..layers).map(|layer| window.filter(|_| layer % 2 == 0)).collect()
}

fn openai(keys: &mut ConfigReader) -> Config {
    let layers = keys.required("num_hidden_layers", &LAYERS);
    let window = Some(keys.required("sliding_window", &SIZE_OR_ZERO)).filter(|size| *size > 0);
    Config {
        experts: vec![keys.required("num_experts", &SIZE); layers as usize],
        experts_per_token: keys.required("experts_per_token", &SIZE),
        windows: alternating_windows(layers, window),
        // A constant of the reference implementation.
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: keys.required("rope_theta", &POSITIVE),
            factor: keys.required("rope_scaling_factor", &POSITIVE),
            initial_context: keys.required("initial_context_length", &POSITIVE),
            slow: keys.required("rope_ntk_alpha", &POSITIVE),
            fast: keys.required("rope_ntk_beta", &POSITIVE),
            context: None,
        },
        tied: false,
        attention_bias: true,
        ..common(keys)
    }
}

/// Refuses a config of another architecture at once, because its other keys mean something else.
fn hugging_face(keys: &mut ConfigReader) -> Result<Config> {
    let model_type = keys.required("model_type", &NAME);
    let is_puzzle = model_type == PUZZLE;
    if ![GPT_OSS, PUZZLE, ""].contains(&&*model_type) {
        return Err(other_model(keys, &model_type));
    }
    refuse_quantized(keys);
    let layers = keys.required("num_hidden_layers", &LAYERS);
    let (experts, windows) = if is_puzzle { blocks(keys, layers) } else { uniform(keys, layers) };
    let used = ["num_experts_per_tok", "experts_per_token"];
    Ok(Config {
        experts,
        experts_per_token: keys.one_of(&used, &SIZE),
        windows,
        rms_norm_eps: keys.optional(EPSILON, &POSITIVE).unwrap_or(1e-5),
        rope: rope::read(keys, is_puzzle),
        tied: keys.optional("tie_word_embeddings", &BOOL).unwrap_or(false),
        attention_bias: keys.optional(BIASES, &BOOL).unwrap_or(true),
        ..common(keys)
    })
}

/// Refuses the config of a model that has GPT-OSS as a part, as those with vision do.
fn refuse_outer(keys: &ConfigReader) -> Result<()> {
    let is_own = |kind: Option<&Value>| {
        [Some(GPT_OSS), Some(PUZZLE)].contains(&kind.and_then(Value::as_str))
    };
    if is_own(keys.get("model_type")) {
        return Ok(());
    }
    let Some(part) = keys.find(|value| is_own(value.get("model_type"))) else { return Ok(()) };
    bail!(
        "`{}` is the config of a larger model, and `{part}` in it that of its GPT-OSS model: only the latter can be exported; save it alone, with `{part}` as its config.json",
        keys.file
    )
}

/// The error for a model of another architecture, or for a type that is misspelled.
fn other_model(keys: &ConfigReader, model_type: &str) -> Error {
    let architectures = keys.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let architectures: Vec<&str> = architectures.filter_map(Value::as_str).collect();
    let is_misspelled = resembles(GPT_OSS, model_type);
    if is_misspelled || architectures.iter().any(|it| it.starts_with("GptOss")) {
        let expected = format!("\"{GPT_OSS}\" or \"{PUZZLE}\"");
        let error = keys.invalid("model_type", &expected, &model_type.into());
        let question = if is_misspelled { " (did you mean \"gpt_oss\"?)" } else { "" };
        return err!("{error}{question}: {RESTORE}");
    }
    let architectures = match &architectures[..] {
        [] => String::new(),
        names => format!(" ({})", names.join(", ")),
    };
    err!(
        "`{}` is of a {model_type:?} model{architectures}: only GPT-OSS can be exported",
        keys.file
    )
}

/// Refuses weights that are quantized, except for MXFP4 as released.
fn refuse_quantized(keys: &mut ConfigReader) {
    const METHOD: &str = "quantization_config.quant_method";
    // MLX has a key of its own, and repeats it without a method under the usual name.
    let method = if keys.has("quantization.") {
        keys.skip_all("quantization.");
        "mlx".to_owned()
    } else if keys.has("quantization_config.") && !keys.is_ignored(METHOD) {
        keys.required(METHOD, &NAME)
    } else {
        return;
    };
    let digits = |name: &str| name.matches(char::is_numeric).collect::<String>();
    if resembles(MXFP4, &method) && digits(&method) == digits(MXFP4) {
        let error = keys.invalid(METHOD, "\"mxfp4\"", &method.into());
        keys.refuse(err!("{error} (did you mean \"mxfp4\"?): {RESTORE}"));
    } else if ![MXFP4, ""].contains(&&*method) {
        let error = format!(
            "`{}`: weights quantized with {method:?} cannot be read, only MXFP4 as released: {USE_SOURCE}",
            keys.file
        );
        keys.refuse(if method == "mlx" {
            err!("{error}")
        } else {
            err!("{error}; if they were merged or dequantized since, the key can be ignored")
                .with_remedy(Setting::IgnoreConfigKey, METHOD)
        });
    }
}

/// Experts and windows by layer.
type Layers = (Vec<u64>, Vec<Option<u64>>);

/// The layers of a model whose config has one number of experts and one window.
fn uniform(keys: &mut ConfigReader, layers: u64) -> Layers {
    if keys.get(BLOCKS).is_some() && !keys.is_ignored(BLOCKS) {
        let error = err!(
            "`{}`: key `model_type` must be \"{PUZZLE}\" if layers differ as `{BLOCKS}` says, found \"gpt_oss\"; `{BLOCKS}` can be ignored if all layers are alike",
            keys.file
        );
        keys.refuse(error.with_remedy(Setting::IgnoreConfigKey, BLOCKS).with_another_remedy());
        return blocks(keys, layers);
    }
    let experts = keys.one_of(&["num_local_experts", "num_experts"], &SIZE);
    (vec![experts; layers as usize], windows(keys, layers))
}

/// `layer_types` names the attention of each layer; without it they alternate. The window
/// must be given: without it transformers takes 128.
fn windows(keys: &mut ConfigReader, layers: u64) -> Vec<Option<u64>> {
    let window = |keys: &mut ConfigReader| Some(keys.required("sliding_window", &SIZE));
    let Some(sliding) = sliding_layers(keys, layers) else {
        return alternating_windows(layers, window(keys));
    };
    let window =
        if sliding.contains(&true) { window(keys) } else { keys.optional("sliding_window", &SIZE) };
    sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect()
}

/// Whether each layer has a window by `layer_types`, if the config has this key.
fn sliding_layers(keys: &mut ConfigReader, layers: u64) -> Option<Vec<bool>> {
    let types = keys.optional(LAYER_TYPES, &LIST)?;
    // The number of layers may be wrong itself.
    if types.len() as u64 != layers && layers > 0 {
        refuse_lengths(keys, LAYER_TYPES, types.len() as u64, layers);
        return Some(Vec::new());
    }
    let is_sliding = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    if let Some(wrong) = types.iter().find(|kind| is_sliding(kind).is_none()) {
        let expected = "a list of \"sliding_attention\" and \"full_attention\"";
        let error = keys.invalid(LAYER_TYPES, expected, wrong);
        keys.refuse(err!("{error}: {RESTORE}"));
    }
    Some(types.iter().filter_map(is_sliding).collect())
}

/// Refuses a list with an entry for each layer that is longer or shorter than the number of layers.
fn refuse_lengths(keys: &mut ConfigReader, list: &str, entries: u64, layers: u64) {
    const COUNT: &str = "num_hidden_layers";
    let described = plural(entries as usize, "layer");
    let has = format!("`{}`: `{list}` describes {described}, `{COUNT}` is {layers}", keys.file);
    keys.refuse(match keys.layers_there {
        Some(there) if there == entries && there > layers => err!(
            "{has}, and the files hold {there}: set `{COUNT}` to {there}, and limit the export too if the first alone are wanted"
        )
        .with_remedy(Setting::Layers, layers.to_string())
        .with_another_remedy(),
        Some(there) if there == entries => {
            err!("{has}, and the files hold {there}: set `{COUNT}` to {there}")
        }
        Some(there) if there == layers => err!(
            "{has}, and the files hold {there}: give `{list}` {there} entries, those that were saved with the weights"
        ),
        Some(there) => err!(
            "{has}, and the files hold {there}: use the config.json that was saved with the weights"
        ),
        None => err!("{has}, and both must be equal: {RESTORE}"),
    });
}

/// The layers of a Puzzle model: each has an object of its own in `block_configs`, in which a
/// window may be absent. One number of experts or one window for all is what the base class
/// writes, and no program reads it.
fn blocks(keys: &mut ConfigReader, layers: u64) -> Layers {
    for key in ["num_local_experts", "num_experts", "sliding_window"] {
        keys.skip(key);
    }
    let Some(count) = keys.objects(BLOCKS) else { return Layers::default() };
    if count != layers && layers > 0 {
        refuse_lengths(keys, BLOCKS, count, layers);
        return Layers::default();
    }
    let mut block = |at| {
        let path = |key| format!("{BLOCKS}.{at}.{key}");
        let experts = keys.required(&path("num_local_experts"), &SIZE);
        (experts, keys.optional(&path("sliding_window"), &SIZE))
    };
    let (experts, windows): Layers = (0..count).map(&mut block).unzip();
    if !keys.is_ignored(LAYER_TYPES)
        && let Some(sliding) = sliding_layers(keys, layers)
        && let Some(at) = sliding.iter().zip(&windows).position(|(it, own)| *it != own.is_some())
    {
        let error = err!(
            "`{}`: `{LAYER_TYPES}` must say which layers have a window in `{BLOCKS}`, and differs in layer {at}; it can be ignored if the windows are right",
            keys.file
        );
        keys.refuse(error.with_remedy(Setting::IgnoreConfigKey, LAYER_TYPES));
    }
    (experts, windows)
}
