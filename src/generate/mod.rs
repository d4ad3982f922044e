//! Continues a text with a model in onnxruntime.

mod adapters;
mod companions;
mod decoder;
mod model;
mod output;
mod prompt;
mod sampling;
mod stream;
mod summary;

use std::path::PathBuf;

use crate::error::{Kind, Result};
use crate::exported::{RunningModel, library_for};
use crate::memory;
use crate::progress::Progress;
use adapters::AdapterFactor;
use companions::Companions;
use decoder::Decoder;
use output::Output;
use sampling::Sampler;
use summary::Clock;

pub use prompt::Prompt;
pub use sampling::Sampling;
pub use summary::{EndedBy, Generated, Pace};

/// What to continue, and how.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The ONNX file, or stages of the model; one stands for all that lie beside it. Patterns too, and a
    /// folder with a model.
    pub models: Vec<PathBuf>,
    /// What to continue.
    pub prompt: Prompt,
    /// The folder with the tokenizer's files, if they are not beside the model or its checkpoint.
    pub tokenizer: Option<PathBuf>,
    /// Files of adapters, for a model that takes them at run time.
    pub adapters: Vec<PathBuf>,
    /// Most tokens to make.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Show the final message of an answer in harmony format alone.
    pub final_only: bool,
    /// The library of onnxruntime, or its folder.
    pub onnxruntime: Option<PathBuf>,
}

/// Continues a text until the model ends it. `show` gets what there is of the text as soon as its
/// characters are whole, and says whether to go on.
pub fn generate(
    request: &GenerateRequest,
    show: &mut dyn FnMut(&str) -> Result<bool>,
    progress: &dyn Progress,
) -> Result<Generated> {
    let model = model::open(&request.models)?;
    let companions = Companions::new(&model, request.tokenizer.as_deref())?;
    let vocab_size = model.signature.vocab as usize;
    let needs_text = request.final_only || !matches!(request.prompt, Prompt::Ids(_));
    let tokenizer = needs_text.then(|| companions.tokenizer(vocab_size)).transpose()?;
    let prompt = prompt::tokens(&request.prompt, tokenizer.as_ref(), &companions, vocab_size)?;
    let room = model::room_after(&model, prompt.len())?;
    let ending = companions.ending_tokens(vocab_size as u64)?;
    let mut output = Output::new(tokenizer.as_ref(), request.final_only, &prompt)?;
    let factors = adapters::read(&model, &request.adapters)?;
    let library = library_for(model.options.target, request.onnxruntime.as_deref())?;
    let factors = factors.into_iter().map(AdapterFactor::into_input).collect::<Result<Vec<_>>>()?;
    let running = RunningModel::load(&model, &library, &[], &factors, progress)?;
    let most = request.max_new_tokens.min(room);
    let mut decoder = Decoder::begin(&model, running, [prompt.len(), most], progress)?;
    let mut sampler = Sampler::new(request.sampling);

    let is_cut = most < request.max_new_tokens;
    let mut ended_by = if is_cut { EndedBy::Context } else { EndedBy::MaxNewTokens };
    let (mut ids, mut clock) = (Vec::new(), Clock::start());
    while ids.len() < most {
        let step = match ids.last() {
            None => decoder.read(&prompt),
            Some(last) => decoder.append(&[*last]),
        };
        if step.as_ref().is_err_and(|error| error.kind() == Kind::Interrupted) {
            ended_by = EndedBy::Interruption;
            break;
        }
        let id = sampler.choose(step?.of_last()?)?;
        ids.push(id);
        clock.tick();
        if ending.contains(&u64::from(id)) {
            ended_by = EndedBy::Token;
            break;
        }
        if !output.show(id, show)? {
            ended_by = EndedBy::Interruption;
            break;
        }
    }
    Ok(Generated {
        text: output.finish(show)?,
        pace: clock.pace(prompt.len()),
        notes: model::notes(&model, &ending),
        peak_rss: memory::peak_rss(),
        model: model.path.clone(),
        prompt_ids: prompt,
        ids,
        ended_by,
    })
}
