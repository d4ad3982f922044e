//! Tensors of formats that are not read, known by their names.

use super::names::matches;
use super::suggest::MERGE_ADAPTER;

/// Tensors that stand for weights in a way that is not read.
pub struct Foreign<'n> {
    /// The first of them.
    pub name: &'n str,
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Patterns of names, what has them, and what to do. The first counts.
const KNOWN: [(&str, &str, &str); 13] = [
    ("*.base_layer.* *lora_*", "an adapter that is not merged", MERGE_ADAPTER),
    ("*.g_idx", "weights in GPTQ's format", UNQUANTIZED),
    ("*qweight *qzeros", "weights in GPTQ's or AWQ's format", UNQUANTIZED),
    (
        "*.absmax *.quant_map *.nested_absmax *.quant_state.* *.SCB *.weight_format",
        "weights in bitsandbytes' format",
        UNQUANTIZED,
    ),
    ("*weight_scale_2", "weights in ModelOpt's NVFP4", UNQUANTIZED),
    (
        "*weight_packed *weight_shape *weight_global_scale *weight_zero_point",
        "weights in the format of compressed-tensors",
        UNQUANTIZED,
    ),
    (
        "*weight_scale *scale_inv *input_scale *.scale_weight *.scale_input",
        "scales of weights in FP8 or NVFP4",
        UNQUANTIZED,
    ),
    ("*.W_q", "weights in HQQ's format", UNQUANTIZED),
    ("*._data *._scale", "weights in quanto's format", UNQUANTIZED),
    ("*_qdata", "weights in torchao's format", UNQUANTIZED),
    ("*.codebooks *.q_weight *.trellis", "weights in AQLM's or EXL's format", UNQUANTIZED),
    ("*.biases", "weights in MLX's format", UNQUANTIZED),
    (
        "*.qkv_proj.* *.self_attn.qkv.* *.Wqkv.* *.query_key_value.* *.c_attn.*",
        "q, k and v in one tensor",
        "split the tensor into `q_proj`, `k_proj` and `v_proj` by rows, and export the result",
    ),
];
const UNQUANTIZED: &str = "they cannot be read, export the model that was quantized";

/// What some of these names stand for.
pub fn find<'n>(names: &[&'n str]) -> Option<Foreign<'n>> {
    KNOWN.into_iter().find_map(|(patterns, what, remedy)| {
        let is_its = |name: &&str| patterns.split(' ').any(|pattern| matches(pattern, name));
        Some(Foreign { name: names.iter().copied().find(is_its)?, what, remedy })
    })
}
