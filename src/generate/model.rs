//! What a model needs to continue a text on this machine.

use std::path::PathBuf;

use crate::display::{plural, with_thousands};
use crate::error::{Error, Result, ensure, err};
use crate::exported::{ExportedModel, Signature};
use crate::model::{Provider, exact_settings};
use crate::tensor::DType;

/// Reads a model and refuses one that cannot continue a text on this machine.
pub fn open(given: &[PathBuf]) -> Result<ExportedModel> {
    let model = ExportedModel::open(given)?;
    let (shown, options) = (model.path.display(), model.options);
    let on_cpu = |error: Error| error.with_remedies(exact_settings(&options, &model.formats()));
    let mut errors = Vec::new();
    if options.provider != Provider::Cpu {
        let provider = options.provider;
        let error = err!(
            "`{shown}` is for the execution provider `{provider}`, and texts are generated on a CPU: export another model for that"
        );
        errors.push(on_cpu(error));
    }
    if options.compute == DType::BF16 && errors.is_empty() {
        let error = err!(
            "`{shown}` computes in bf16, for which onnxruntime has no kernels on a CPU: export another model that computes in f32"
        );
        errors.push(on_cpu(error));
    }
    errors.extend(model.require_data().and_then(|()| model.require_unchanged()).err());
    Error::all(errors)?;
    Ok(model)
}

/// How many tokens may follow a prompt, of which there must be one.
pub fn room_after(model: &ExportedModel, prompt: usize) -> Result<usize> {
    let Signature { length, cache, .. } = model.signature;
    let context = model.metadata.as_ref().and_then(|it| it.context).map(|it| it as usize);
    // One more token is made than the model is given.
    let fixed = length.filter(|_| !cache).map(|it| it.saturating_add(1));
    let longest = [context, fixed].into_iter().flatten().min().unwrap_or(usize::MAX);
    let (room, path) = (longest.saturating_sub(prompt), model.path.display());
    ensure!(
        room > 0,
        "the prompt has {}, and `{path}` takes texts of up to {}, of which one is new: shorten it",
        plural(prompt, "token"),
        with_thousands(longest as u64)
    );
    Ok(room)
}

/// What runs, and what makes it slower, or texts longer, than they could be.
pub fn notes(model: &ExportedModel, ending: &[u64]) -> Vec<String> {
    let Signature { batch, length, cache, .. } = model.signature;
    let mut notes = Vec::new();
    if let stages @ 2.. = model.files.len() {
        notes.push(format!("{stages} stages are run as one model: `{}`", model.path.display()));
    }
    if !cache {
        notes.push("the model has no cache: each token computes the whole text again".to_owned());
    }
    if let Some(rows @ 2..) = batch {
        notes.push(format!("the model computes {rows} rows, of which one is shown"));
    }
    if let Some(length @ 2..) = length.filter(|_| cache) {
        notes.push(format!("the model computes {length} tokens for each, the others are padding"));
    }
    if ending.is_empty() {
        notes.push("no file beside the model names the tokens that end a text".to_owned());
    }
    notes
}
