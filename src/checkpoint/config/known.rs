//! Keys that no number of a model is read from, and that leave what a GPT-OSS model computes as it
//! is: at any value, or at the one that the key has by default. All other keys are refused.

use std::fmt;

use serde_json::Value;

/// Keys of one subject. A name ends with `*` if it is a prefix.
pub struct Group {
    names: &'static [&'static str],
    /// The only value that leaves the model as it is, in JSON, or a list with all elements of such
    /// values; any does if `None`.
    pub only: Option<&'static str>,
    /// What the keys are about, or what another value would do.
    pub about: &'static str,
    /// Of another value.
    pub effect: Effect,
}

/// What a value that is not the only known one does to a model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None that transformers' GPT-OSS has: the user may know better, and ignore it.
    Unknown,
    /// It makes another model in transformers' GPT-OSS.
    Unsupported,
}

/// Of OpenAI's `ModelConfig`.
pub const OPENAI: &[Group] = &[any("how weights are stored", &["dtype", "torch_dtype"])];

/// Of `GptOssConfig` of transformers and its base classes `PretrainedConfig` (version 4) and
/// `PreTrainedConfig` (version 5), and of programs that add keys to it.
pub const HUGGING_FACE: &[Group] = &[
    any("who wrote the file", &["_name_or_path", "name_or_path", "model_name"]),
    any("who wrote the file", &["transformers_version", "_commit_hash"]),
    any("who wrote the file", &["unsloth_fixed", "unsloth_fixed_mxfp4", "unsloth_version"]),
    any("settings of a runtime", &["transformers.js_config"]),
    any("tokens around the model", &["bos_token_id", "eos_token_id", "pad_token_id"]),
    any("tokens around the model", &["sep_token_id", "cls_token_id", "decoder_start_token_id"]),
    any("the tokenizer", &["tokenizer_class", "prefix"]),
    any("labels of a classifier", &["id2label", "label2id", "num_labels", "problem_type"]),
    any("a task", &["finetuning_task", "task_specific_params"]),
    any("training", &["attention_dropout", "initializer_range", "gradient_checkpointing"]),
    any("training", &["output_router_logits", "router_aux_loss_coef", "tf_legacy_loss"]),
    any("training", &["router_jitter_noise"]),
    // The method is read.
    any("how weights are stored", &["dtype", "torch_dtype", "quantization_config.*"]),
    any("what a program returns", &["return_dict", "use_cache", "tie_last_hidden_states"]),
    any("what a program returns", &["output_attentions", "_output_attentions"]),
    any("what a program returns", &["output_hidden_states"]),
    any("which kernels compute it", &["attn_implementation", "_attn_implementation*"]),
    any("which kernels compute it", &["experts_implementation", "_experts_implementation*"]),
    only(CLASSES, "others may be code that computes otherwise", &["architectures"]),
    any("code that runs only on demand", &["auto_map"]),
    // Lengths are checked where YaRN is used.
    any("how positions were extended", &["rope_parameters.finetuned", "rope_scaling.finetuned"]),
    any("how positions were extended", &["initial_context_length", "max_position_embeddings"]),
    any(GENERATION, &["bad_words_ids", "begin_suppress_tokens", "suppress_tokens"]),
    any(GENERATION, &["forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids"]),
    any(GENERATION, &["max_length", "max_new_tokens", "min_length", "min_new_tokens"]),
    any(GENERATION, &["do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"]),
    any(GENERATION, &["epsilon_cutoff", "eta_cutoff", "penalty_alpha", "guidance_scale"]),
    any(GENERATION, &["num_beams", "num_beam_groups", "early_stopping", "num_return_sequences"]),
    any(GENERATION, &["length_penalty", "diversity_penalty", "repetition_penalty"]),
    any(GENERATION, &["encoder_repetition_penalty", "exponential_decay_length_penalty"]),
    any(GENERATION, &["no_repeat_ngram_size", "encoder_no_repeat_ngram_size"]),
    any(GENERATION, &["renormalize_logits", "remove_invalid_values", "cache_implementation"]),
    any(GENERATION, &["output_scores", "output_logits", "return_dict_in_generate"]),
    only("false", "others add attention to an encoder's output", &["add_cross_attention"]),
    only("false", "others have an encoder", &["is_encoder_decoder", "tie_encoder_decoder"]),
    only("false", "some programs let encoders alone see later tokens", &["is_decoder"]),
    only("true", "otherwise scores of experts that are not chosen count too", &["norm_topk_prob"]),
    only("0", "others change the order of sums", &["chunk_size_feed_forward"]),
    only("{}", "others remove heads when a model is loaded", &["pruned_heads"]),
    only("false", "tied weights become copies, which training changes apart", &["torchscript"]),
    only("false", "TensorFlow computes in bfloat16", &["use_bfloat16"]),
    // Read by transformers' GPT-OSS.
    fixed("\"silu\"", "others compute experts otherwise", &["hidden_act"]),
    // A constant of OpenAI's implementation.
    fixed("1.702", "others compute experts otherwise", &["swiglu_alpha"]),
    fixed("true", "otherwise tokens see later ones", &["is_causal"]),
    fixed("1.0", "others rotate a part of each head", &["partial_rotary_factor"]),
    fixed("1.0", "others rotate a part of each head", &["rope_parameters.partial_rotary_factor"]),
    fixed("1.0", "others rotate a part of each head", &["rope_scaling.partial_rotary_factor"]),
    fixed("{}", "others change layers", &["per_layer_config"]),
];

/// The classes of transformers and of NVIDIA's Puzzle models. Tensors tell which head there is.
const CLASSES: &str = r#"["GptOssForCausalLM", "GptOssPuzzleForCausalLM", "GptOssModel", "GptOssForSequenceClassification", "GptOssForTokenClassification"]"#;
/// How tokens are chosen from logits.
const GENERATION: &str = "settings of a generation config";

/// Keys that may have any value.
pub const fn any(about: &'static str, names: &'static [&'static str]) -> Group {
    Group { names, only: None, about, effect: Effect::Unknown }
}

const fn only(value: &'static str, about: &'static str, names: &'static [&'static str]) -> Group {
    Group { names, only: Some(value), about, effect: Effect::Unknown }
}

const fn fixed(value: &'static str, about: &'static str, names: &'static [&'static str]) -> Group {
    Group { names, only: Some(value), about, effect: Effect::Unsupported }
}

impl Group {
    fn has(&self, key: &str) -> bool {
        self.names.iter().any(|name| match name.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == *name,
        })
    }

    /// Whether a value leaves the model as it is.
    pub fn allows(&self, value: &Value) -> bool {
        let Some(only) = self.only else { return true };
        let only: Value = only.parse().expect("JSON of a table");
        if let (Some(known), Some(found)) = (only.as_array(), value.as_array()) {
            return found.iter().all(|it| known.contains(it));
        }
        *value == only || value.is_number() && value.as_f64() == only.as_f64()
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { only, about, .. } = self;
        match only {
            Some(only) => write!(f, "only {only} is known: {about}"),
            None => f.write_str(about),
        }
    }
}

/// What is known of a key.
pub fn find<'g>(groups: &'g [Group], key: &str) -> Option<&'g Group> {
    groups.iter().find(|group| group.has(key))
}

/// All names but prefixes.
pub fn names(groups: &[Group]) -> impl Iterator<Item = &str> {
    let names = groups.iter().flat_map(|group| group.names).copied();
    names.filter(|name| !name.ends_with('*'))
}
