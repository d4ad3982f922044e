//! Continues a text with a model in onnxruntime.

mod adapters;
mod companions;
mod decoder;
mod sampling;
mod stream;
mod summary;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::display::{listed, plural, with_thousands};
use crate::error::{Error, Kind, Result, Setting, bail, ensure, err};
use crate::memory;
use crate::metadata::ModelMetadata;
use crate::model::Provider;
use crate::onnx::{self, OnnxFile};
use crate::progress::{Progress, Unit, phase};
use crate::runtime::Library;
use crate::signature::{Cache, Signature};
use crate::tensor::DType;
use crate::text::{Message, Tokenizer};
use companions::Companions;
use decoder::{Decoder, DecoderModel};
use sampling::Sampler;
use stream::{FinalMessage, TextStream};

pub use sampling::Sampling;
pub use summary::{EndedBy, Generated};

/// What to continue, and how.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// An ONNX file, or a folder with one.
    pub model: PathBuf,
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

/// A text to continue.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// As it is, with special tokens by their names.
    Text(String),
    /// A user's message, which the chat template puts into a chat.
    Chat(String),
    /// Token ids; ids are shown too.
    Ids(Vec<u32>),
}

/// A model before it is loaded.
struct ModelFile {
    path: PathBuf,
    onnx: OnnxFile,
    metadata: Option<ModelMetadata>,
    signature: Signature,
    caches: Vec<Cache>,
}

/// Continues a text until the model ends it. `show` gets what there is of the text as soon as its
/// characters are whole, and says whether to go on.
pub fn generate(
    request: &GenerateRequest,
    show: &mut dyn FnMut(&str) -> Result<bool>,
    progress: &dyn Progress,
) -> Result<Generated> {
    let model = ModelFile::open(&request.model)?;
    let companions = Companions::new(&model.path, &model.onnx, request.tokenizer.as_deref())?;
    let vocab_size = model.signature.vocab as usize;
    let tokenizer = match request.prompt {
        Prompt::Ids(_) if !request.final_only => None,
        _ => Some(companions.tokenizer(vocab_size)?),
    };
    let prompt_ids = prompt_ids(&request.prompt, tokenizer.as_ref(), &companions, vocab_size)?;
    let longest = model.longest_text();
    let room = longest.unwrap_or(usize::MAX).saturating_sub(prompt_ids.len());
    if let Some(longest) = longest.filter(|_| room == 0) {
        bail!(
            "the prompt has {}, and `{}` takes texts of up to {}, of which one is new: shorten it",
            plural(prompt_ids.len(), "token"),
            model.path.display(),
            with_thousands(longest as u64)
        );
    }
    let ending = companions.ending_tokens(model.signature.vocab)?;
    let mut output = Output::new(tokenizer.as_ref(), request.final_only, &prompt_ids)?;

    let options = model.metadata.as_ref().map(|it| it.options).unwrap_or_default();
    let target = options.target;
    let for_target = format!("target `{target}`");
    let library = Library::load_for(
        &for_target,
        target.oldest_onnxruntime(),
        request.onnxruntime.as_deref(),
    )?;
    let factors = adapters::read(&model.path, &model.onnx, &request.adapters)?;
    let notes = model.notes(&ending);
    let max_new_tokens = request.max_new_tokens.min(room);
    let ModelFile { path, metadata, signature, caches, .. } = model;
    let limited = metadata.as_ref().map_or(&[][..], |it| &it.limited_caches);
    let loaded = DecoderModel { path: &path, target, signature, caches, limited };
    let lengths = [prompt_ids.len(), max_new_tokens];
    let mut decoder = Decoder::load(loaded, &library, &factors, lengths, progress)?;

    let mut generated = Generated {
        model: path.clone(),
        prompt_ids,
        ids: Vec::new(),
        text: None,
        ended_by: if room < request.max_new_tokens {
            EndedBy::Context
        } else {
            EndedBy::MaxNewTokens
        },
        to_first_token: None,
        decoding: None,
        prompt_tokens_per_second: None,
        decoded_tokens_per_second: None,
        peak_rss: None,
        notes,
    };
    let mut sampler = Sampler::new(request.sampling);
    let (start, mut first) = (Instant::now(), None);
    while generated.ids.len() < max_new_tokens {
        let chosen = if let Some(last) = generated.ids.last() {
            decoder.append(&[*last], |logits| sampler.choose(logits))
        } else {
            let total = generated.prompt_ids.len() as u64;
            let _phase = phase(progress, "reading the prompt", Unit::Tokens, total);
            decoder.append(&generated.prompt_ids, |logits| sampler.choose(logits))
        };
        let id = match chosen {
            Err(error) if error.kind() == Kind::Interrupted => {
                generated.ended_by = EndedBy::Interruption;
                break;
            }
            chosen => chosen?,
        };
        generated.ids.push(id);
        let first = *first.get_or_insert_with(Instant::now);
        generated.to_first_token = Some(first - start);
        generated.decoding = (generated.ids.len() > 1).then(|| first.elapsed());
        if ending.contains(&u64::from(id)) {
            generated.ended_by = EndedBy::Token;
            break;
        }
        if !output.show(id, show)? {
            generated.ended_by = EndedBy::Interruption;
            break;
        }
    }
    generated.text = output.finish(show)?;
    generated.peak_rss = memory::peak_rss();
    Ok(generated.with_rates())
}

impl ModelFile {
    /// Reads a model and refuses one that cannot continue a text on this machine.
    fn open(path: &Path) -> Result<Self> {
        let path = companions::model_file(path)?;
        let shown = path.display();
        let onnx = onnx::read(&path)?;
        let metadata = ModelMetadata::read(&onnx.properties)
            .map_err(|error| err!("`{shown}` cannot be run: {error}"))?;
        let (signature, caches) = Signature::of(&onnx).map_err(|what| {
            err!("`{shown}` has {what}, so it does not continue texts as models of gpt-oss-export do: export it with this program")
        })?;
        let options = metadata.as_ref().map(|it| it.options).unwrap_or_default();
        let mut errors = Vec::new();
        if options.provider != Provider::Cpu {
            let provider = options.provider;
            let error = err!(
                "`{shown}` is for the execution provider `{provider}`, and texts are generated on a CPU: export another model for that"
            );
            errors.push(error.with_remedy(Setting::Provider, "cpu"));
        }
        if options.compute == DType::BF16 {
            let error = err!(
                "`{shown}` computes in bf16, for which onnxruntime has no kernels on a CPU: export another model that computes in f32"
            );
            errors.push(error.with_remedy(Setting::Compute, "f32"));
        }
        errors.extend(onnx::require_data(&path, &onnx).err());
        Error::all(errors)?;
        Ok(Self { path, onnx, metadata, signature, caches })
    }

    /// Tokens of the longest text, if it is known.
    fn longest_text(&self) -> Option<usize> {
        let Signature { length, cache, .. } = self.signature;
        let context = self.metadata.as_ref().and_then(|it| it.context).map(|it| it as usize);
        // One more token is made than the model is given.
        let fixed = length.filter(|_| !cache).map(|it| it.saturating_add(1));
        [context, fixed].into_iter().flatten().min()
    }

    /// What makes it slower, or texts longer, than they could be.
    fn notes(&self, ending: &[u64]) -> Vec<String> {
        let Signature { batch, length, cache, .. } = self.signature;
        let mut notes = Vec::new();
        if !cache {
            notes.push(
                "the model has no cache: each token computes the whole text again".to_owned(),
            );
        }
        if let Some(rows @ 2..) = batch {
            notes.push(format!("the model computes {rows} rows, of which one is shown"));
        }
        if let Some(length @ 2..) = length.filter(|_| cache) {
            notes.push(format!(
                "the model computes {length} tokens for each, the others are padding"
            ));
        }
        if ending.is_empty() {
            notes.push("no file beside the model names the tokens that end a text".to_owned());
        }
        notes
    }
}

/// The tokens of a prompt, all of the model's vocabulary.
fn prompt_ids(
    prompt: &Prompt,
    tokenizer: Option<&Tokenizer>,
    companions: &Companions,
    vocab_size: usize,
) -> Result<Vec<u32>> {
    let encode = |text: &str, is_whole| tokenizer.expect("texts have one").encode(text, is_whole);
    let ids = match prompt {
        Prompt::Text(text) => encode(text, true)?,
        Prompt::Chat(content) => {
            ensure!(!content.is_empty(), "the prompt is empty: give a text");
            let message = Message { role: "user", content };
            encode(&companions.chat_template()?.render(&[message])?, false)?
        }
        Prompt::Ids(ids) => {
            let beyond: Vec<_> = ids.iter().filter(|id| **id as usize >= vocab_size).collect();
            ensure!(
                beyond.is_empty(),
                "the model's vocabulary has {} tokens, and no {}: give ids from 0 to {}",
                with_thousands(vocab_size as u64),
                listed(beyond.into_iter()),
                vocab_size - 1
            );
            ids.clone()
        }
    };
    ensure!(!ids.is_empty(), "the prompt is empty: give a text, or token ids");
    Ok(ids)
}

/// Where generated tokens go: as text, or as ids.
struct Output<'t> {
    stream: Option<TextStream<'t>>,
    filter: Option<FinalMessage<'t>>,
    text: String,
    is_first: bool,
}

impl<'t> Output<'t> {
    /// A prompt may have begun the final message.
    fn new(tokenizer: Option<&'t Tokenizer>, final_only: bool, prompt: &[u32]) -> Result<Self> {
        let mut filter = tokenizer.filter(|_| final_only).map(FinalMessage::new).transpose()?;
        for id in prompt {
            if let Some(filter) = &mut filter {
                filter.has(*id)?;
            }
        }
        let stream = tokenizer.map(TextStream::new);
        Ok(Self { stream, filter, text: String::new(), is_first: true })
    }

    /// Shows what a token adds; whether to go on.
    fn show(&mut self, id: u32, show: &mut dyn FnMut(&str) -> Result<bool>) -> Result<bool> {
        if let Some(filter) = &mut self.filter
            && !filter.has(id)?
        {
            return Ok(true);
        }
        let Some(stream) = &mut self.stream else {
            let separator = if std::mem::take(&mut self.is_first) { "" } else { "," };
            return show(&format!("{separator}{id}"));
        };
        let text = stream.push(id)?;
        self.text.push_str(&text);
        if text.is_empty() { Ok(true) } else { show(&text) }
    }

    /// Shows what is left; all of the text.
    fn finish(self, show: &mut dyn FnMut(&str) -> Result<bool>) -> Result<Option<String>> {
        let Some(mut stream) = self.stream else { return Ok(None) };
        let rest = stream.finish()?;
        if !rest.is_empty() {
            show(&rest)?;
        }
        Ok(Some(self.text + &rest))
    }
}
