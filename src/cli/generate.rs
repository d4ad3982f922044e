//! `gpt-oss-export generate`.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Args};
use gpt_oss_export::display::{escape_control, plural};
use gpt_oss_export::error::{Error, Setting};
use gpt_oss_export::generate::{EndedBy, GenerateRequest, Prompt, Sampling, generate};
use gpt_oss_export::text::LARGEST_TEXT;

use super::console::{Console, print_json, warn, write_if_read};
use super::values::{Printing, from_zero, is_model, number};

/// Continue a text with a model, in onnxruntime, without Python
///
/// The tokenizer's files are beside the model or in the checkpoint that it reads. Without --temperature
/// the likeliest token is chosen, so that a prompt always gives the same text. The text goes to
/// standard output, figures about it to standard error.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("input")))]
#[command(mut_arg("json", |it| it.help("Print the text and numbers about it as one JSON object")))]
#[command(mut_arg("quiet", |it| it.help("Print the text, errors and warnings alone")))]
pub struct Generate {
    /// Model or its folder; of a model in stages, one stage stands for all
    #[arg(value_name = "FILE.onnx|DIR", required = true)]
    models: Vec<PathBuf>,
    /// Text to continue [default: standard input, without its last newline]
    ///
    /// Special tokens are written by their names, such as <|start|>.
    #[arg(long, value_name = "TEXT", group = "input", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A user's message to answer, by the chat template
    #[arg(long, value_name = "TEXT", group = "input", allow_hyphen_values = true)]
    chat: Option<String>,
    /// Token ids to continue, without a tokenizer; ids are printed
    #[arg(long, value_name = "ID,…", group = "input", allow_hyphen_values = true, value_delimiter = ',', value_parser = number::<u32>(0..=u64::from(u32::MAX)))]
    ids: Option<Vec<u32>>,
    /// Folder with the tokenizer's files [default: the model's, or its checkpoint]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Adapter file for a swappable model; may be given several times
    #[arg(long = "adapter", value_name = "NAME.onnx_adapter")]
    adapters: Vec<PathBuf>,
    /// Largest number of new tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = number::<usize>(1..=u64::from(u32::MAX)))]
    max_new_tokens: usize,
    /// Sample with this temperature; 0 chooses the likeliest token
    #[arg(long, value_name = "X", value_parser = temperature, allow_hyphen_values = true)]
    temperature: Option<f64>,
    /// Sample from the K likeliest tokens
    #[arg(long, value_name = "K", requires = "temperature", value_parser = number::<usize>(1..=u64::MAX))]
    top_k: Option<usize>,
    /// Sample from the fewest tokens whose probabilities add up to P, after --top-k
    #[arg(long, value_name = "P", requires = "temperature", value_parser = share, allow_hyphen_values = true)]
    top_p: Option<f64>,
    /// Seed of the random choices
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature", value_parser = number::<u64>(0..=u64::MAX))]
    seed: u64,
    /// Print the final message of an answer without its analysis
    #[arg(long = "final")]
    final_only: bool,
    /// onnxruntime library, or its folder [default: ORT_DYLIB_PATH, system, python3]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    printing: Printing,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let printing = self.printing;
        let console = Console::new(printing.quiet)?;
        if let Some(text) = self.models.iter().skip(1).find(|it| !is_model(it)) {
            bail!(
                "`{}` is no ONNX model: a text to continue is the value of --prompt",
                text.display()
            );
        }
        let prompt = match (self.prompt, self.chat, self.ids) {
            (Some(text), ..) => Prompt::Text(text),
            (_, Some(message), _) => Prompt::Chat(message),
            (.., Some(ids)) => Prompt::Ids(ids),
            _ => Prompt::Text(standard_input()?),
        };
        let request = GenerateRequest {
            models: self.models,
            prompt,
            tokenizer: self.tokenizer,
            adapters: self.adapters,
            max_new_tokens: self.max_new_tokens,
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(0.0),
                top_k: self.top_k,
                top_p: self.top_p.unwrap_or(1.0),
                seed: self.seed,
            },
            final_only: self.final_only,
            onnxruntime: self.onnxruntime,
        };
        let is_terminal = io::stdout().is_terminal();
        let mut is_read = true;
        let mut show = |text: &str| {
            let shown = if is_terminal { for_terminal(text) } else { text.to_owned() };
            is_read = printing.json() || write_if_read(shown.as_bytes())?;
            Ok(is_read)
        };
        let generated = generate(&request, &mut show, &console)?;
        if request.final_only && generated.text.as_ref().is_some_and(String::is_empty) {
            let made = plural(generated.ids.len(), "token");
            warn(&format!(
                "no final message in {made}: allow more tokens, or show the analysis too"
            ));
        }
        if printing.json() {
            print_json(&generated)?;
        } else {
            show("\n")?;
            if !printing.quiet {
                writeln!(io::stderr(), "{generated}").context("cannot write to standard error")?;
            }
        }
        // A reader who has gone away has seen enough.
        ensure!(!is_read || generated.ended_by != EndedBy::Interruption, Error::interrupted());
        Ok(())
    }
}

/// The settings that the command has.
pub fn has(setting: Setting) -> Option<Setting> {
    use Setting::{Adapter, Onnxruntime, Tokenizer};
    [Adapter, Onnxruntime, Tokenizer].contains(&setting).then_some(setting)
}

/// The text of standard input, without the newline that ends its last line.
fn standard_input() -> Result<String> {
    let mut bytes = Vec::new();
    let mut input = io::stdin().take(LARGEST_TEXT + 1);
    input.read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 > LARGEST_TEXT {
        bail!("standard input has more than {LARGEST_TEXT} bytes: give a shorter prompt");
    }
    let text = String::from_utf8(bytes);
    let mut text = text.map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("standard input is not UTF-8 from byte {at} on: convert it")
    })?;
    let length = text.strip_suffix('\n').map_or(text.len(), |it| it.trim_end_matches('\r').len());
    text.truncate(length);
    Ok(text)
}

/// A text without what moves a terminal's cursor: a model may be made to write it.
fn for_terminal(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        _ => escape_control(c.encode_utf8(&mut [0; 4])),
    };
    text.chars().map(escaped).collect()
}

fn temperature(text: &str) -> Result<f64, &'static str> {
    from_zero(text).ok_or("expected a number from 0, such as 0.7")
}

fn share(text: &str) -> Result<f64, &'static str> {
    from_zero(text).filter(|it| *it <= 1.0).ok_or("expected a number from 0 to 1, such as 0.9")
}
