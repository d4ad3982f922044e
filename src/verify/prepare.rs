//! Whether a model can be verified at all, which is known before it is written.

use std::path::Path;

use super::inputs::{Inputs, limits};
use super::request::InputOptions;
use crate::checkpoint::Config;
use crate::error::{Error, Result, Setting, err};
use crate::exported::{Signature, library_for};
use crate::model::{GraphOptions, Provider, exact_settings};
use crate::runtime::Library;
use crate::tensor::DType;
use crate::weights::{FormatSet, PerRole};

/// Returns the onnxruntime that can verify `model`. Refuses a model that is not for a CPU, has fixed
/// sizes that are too large for this machine, or needs a tolerance and has none, and refuses if no
/// suitable onnxruntime is found. `formats` are those of its matrices, converted or stored; `config`
/// is that of its checkpoint, if it is known yet.
pub fn prepare(
    model: &str,
    options: &GraphOptions,
    formats: &PerRole<FormatSet>,
    config: Option<&Config>,
    tolerance: Option<f64>,
    onnxruntime: Option<&Path>,
) -> Result<Library> {
    let GraphOptions { target, provider, compute, .. } = *options;
    let instead = |error: Error| error.with_remedies(exact_settings(options, formats));
    if provider != Provider::Cpu {
        return Err(instead(err!(
            "{model} is for the execution provider `{provider}` and cannot run on a CPU: export a second model with its formats for the provider `cpu` to another place, and use that one"
        )));
    }
    if compute == DType::BF16 {
        return Err(instead(err!(
            "{model} computes in bf16, for which onnxruntime has no kernels on a CPU: export a second model that computes in f32 to another place, and use that one"
        )));
    }
    // A model of fixed sizes may be too large, whatever the checkpoint.
    let size = |size: Option<u64>| size.map(|size| size as usize);
    let signature = Signature {
        batch: size(options.batch),
        length: size(options.length),
        cache: options.has_cache(),
        mask: options.has_mask(),
        last: options.last_logits,
        vocab: config.map_or(1, |config| config.vocab_size),
    };
    Inputs::random(signature, InputOptions::default(), config.map_or([0, usize::MAX], limits))?;
    // Only a requested tolerance fits a model that rounds while it computes.
    let rounding = options.large_rounding(formats);
    if tolerance.is_none() && !rounding.is_empty() {
        return Err(instead(err!(
            "there is no default tolerance for the model: {}; export another one that does not round to check the weights, or choose X, the largest error of a logit that you accept",
            rounding.join("; ")
        ))
        .with_remedy(Setting::Tolerance, "X"));
    }
    library_for(target, onnxruntime)
}
