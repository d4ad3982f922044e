//! OpenAI's dialect: the fields of `ModelConfig`, as in `original/config.json`.

use super::reader::{ConfigReader, LAYERS, POSITIVE, SIZE, SIZE_OR_ZERO};
use super::values::{Config, Rope, alternating_windows};
use crate::error::Result;

pub fn read(keys: &mut ConfigReader) -> Result<Config> {
    let layers = keys.required("num_hidden_layers", &LAYERS)?;
    let window = Some(keys.required("sliding_window", &SIZE_OR_ZERO)?).filter(|size| *size > 0);
    let config = Config {
        vocab_size: keys.required("vocab_size", &SIZE)?,
        hidden_size: keys.required("hidden_size", &SIZE)?,
        intermediate_size: keys.required("intermediate_size", &SIZE)?,
        num_heads: keys.required("num_attention_heads", &SIZE)?,
        num_kv_heads: keys.required("num_key_value_heads", &SIZE)?,
        head_dim: keys.required("head_dim", &SIZE)?,
        experts: vec![keys.required("num_experts", &SIZE)?; layers as usize],
        experts_per_token: keys.required("experts_per_token", &SIZE)?,
        windows: alternating_windows(layers, window),
        swiglu_limit: keys.optional("swiglu_limit", &POSITIVE)?.unwrap_or(7.0),
        // A constant of the reference implementation.
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: keys.required("rope_theta", &POSITIVE)?,
            factor: keys.required("rope_scaling_factor", &POSITIVE)?,
            initial_context: keys.required("initial_context_length", &POSITIVE)?,
            slow: keys.required("rope_ntk_alpha", &POSITIVE)?,
            fast: keys.required("rope_ntk_beta", &POSITIVE)?,
        },
        tied: false,
        attention_bias: true,
    };
    keys.refuse_unread(&["dtype", "torch_dtype"])?;
    Ok(config)
}
