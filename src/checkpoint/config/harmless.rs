//! Keys of configs that do not change what a GPT-OSS model computes.

use super::reader::Harmless;

/// Keys of Hugging Face's dialect that may have any value.
const HUGGING_FACE: [&[&str]; 23] = [
    // Who wrote the file.
    &["_name_or_path", "architectures", "model_name", "transformers_version", "_commit_hash"],
    &["unsloth_fixed", "unsloth_fixed_mxfp4", "unsloth_version", "transformers.js_config"],
    // Tokens and labels, which surround the model.
    &["bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id"],
    &["decoder_start_token_id", "tokenizer_class", "prefix"],
    &["id2label", "label2id", "num_labels", "problem_type"],
    &["finetuning_task", "task_specific_params"],
    // Training.
    &["attention_dropout", "initializer_range", "output_router_logits", "router_aux_loss_coef"],
    &["gradient_checkpointing", "tf_legacy_loss"],
    // How weights are stored, and what programs return.
    &["dtype", "torch_dtype", "quantization_config.*", "return_dict", "use_cache"],
    &["output_attentions", "_output_attentions", "output_hidden_states"],
    // Which kernels compute it, and code that transformers runs only if it is told to.
    &["attn_implementation", "_attn_implementation*"],
    &["experts_implementation", "_experts_implementation*", "auto_map"],
    // How positions were extended; the lengths are checked where YaRN is used.
    &["rope_parameters.finetuned", "rope_scaling.finetuned"],
    &["initial_context_length", "max_position_embeddings"],
    // How tokens are chosen from logits: settings of a generation config.
    &["bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "remove_invalid_values"],
    &["forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "guidance_scale"],
    &["max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_return_sequences"],
    &["do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "penalty_alpha"],
    &["epsilon_cutoff", "eta_cutoff", "renormalize_logits", "cache_implementation"],
    &["num_beams", "num_beam_groups", "early_stopping", "length_penalty", "diversity_penalty"],
    &["repetition_penalty", "encoder_repetition_penalty", "exponential_decay_length_penalty"],
    &["no_repeat_ngram_size", "encoder_no_repeat_ngram_size"],
    &["output_scores", "output_logits", "return_dict_in_generate"],
];

/// Keys of transformers' `PretrainedConfig` that could make another model, with the value
/// that does not: its default.
const DEFAULTS: [(&str, &str); 8] = [
    // Attention to an encoder's output, and attention to later tokens.
    ("add_cross_attention", "false"),
    ("is_decoder", "false"),
    ("is_encoder_decoder", "false"),
    ("tie_encoder_decoder", "false"),
    // Parts of a sequence at a time: another order of sums.
    ("chunk_size_feed_forward", "0"),
    // Heads that are removed when a model is loaded.
    ("pruned_heads", "{}"),
    // Tied weights become copies, which training changes one by one.
    ("torchscript", "false"),
    // TensorFlow computes in bfloat16.
    ("use_bfloat16", "false"),
];

/// What is known of a key of OpenAI's dialect that nothing reads.
pub fn openai(key: &str) -> Option<Harmless> {
    ["dtype", "torch_dtype"].contains(&key).then_some(Harmless::Always)
}

/// What is known of a key of Hugging Face's dialect that nothing reads; a name ends with `*`
/// if it is a prefix.
pub fn hugging_face(key: &str) -> Option<Harmless> {
    let is = |name: &&str| match name.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => key == *name,
    };
    if HUGGING_FACE.into_iter().flatten().any(is) {
        return Some(Harmless::Always);
    }
    DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, value)| Harmless::If(value))
}
