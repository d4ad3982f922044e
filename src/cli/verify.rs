//! `gpt-oss-export verify`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gpt_oss_export::error::Setting;
use gpt_oss_export::export::AdapterSource;
use gpt_oss_export::verify::{ExpertUse, InputOptions, Report, VerifyRequest, verify};

use super::console::Console;
use super::values::{
    AdapterLayout, Ignored, Printing, TextInput, adapter, from_zero, number, with_extension,
};

/// Compare a model with its checkpoint: weights byte for byte, logits in onnxruntime
///
/// Logits are compared with those of a float64 reference, a plain forward pass that reads the
/// checkpoint by itself. Ends with status 1 if the model departs, or if the checkpoint has weights in
/// another form, whose bytes cannot be compared.
#[derive(Args, Debug)]
#[command(mut_arg("json", |it| it.help("Print the report as one JSON object")))]
pub struct Verify {
    /// Model or its folder; of a model in stages, one stage stands for all
    #[arg(value_name = "FILE.onnx|DIR", required = true)]
    models: Vec<PathBuf>,
    /// Checkpoint folder or staged weights file that the model was made from
    #[arg(long, value_name = "DIR|FILE")]
    checkpoint: PathBuf,
    /// LoRA adapter of the export; with its weight as DIR=0.7
    ///
    /// May be given several times, in any order. A swappable model takes any that fits, or none.
    #[arg(long = "adapter", value_name = "DIR|FILE[=WEIGHT]", value_parser = adapter())]
    adapters: Vec<AdapterSource>,
    #[command(flatten)]
    layout: AdapterLayout,
    #[command(flatten)]
    text: TextInput,
    /// Tokens of the longest row [default: sliding window + 32], or of a window [512]
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=1_048_576))]
    tokens: Option<usize>,
    /// Random rows, of unequal lengths [default: 3 with attention_mask, else 1]
    #[arg(long, conflicts_with = "text", value_name = "N", value_parser = number::<usize>(1..=1_048_576))]
    batch: Option<usize>,
    /// Number of decode steps after the prompt [default: 16 with a cache]
    ///
    /// Without a cache each step runs the whole text, and the default is 0, or 4 if the model
    /// computes the last logits only.
    #[arg(long, conflicts_with = "text", value_name = "N", value_parser = number::<usize>(0..=u64::MAX))]
    decode: Option<usize>,
    /// Seed of the random tokens
    #[arg(long, conflicts_with = "text", value_name = "N", default_value_t = 0, value_parser = number::<u64>(0..=u64::MAX))]
    seed: u64,
    /// Largest absolute logit error [default: 8 times float32's noise]
    ///
    /// The noise is the difference of the reference in float32 from itself in float64. With this
    /// option only logits decide; weights and residual stream are reported.
    #[arg(long, value_name = "X", value_parser = tolerance, allow_hyphen_values = true)]
    tolerance: Option<f64>,
    /// onnxruntime library, or its folder [default: ORT_DYLIB_PATH, system, python3]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Compare the residual stream after each layer too
    #[arg(long)]
    trace: bool,
    /// File to write with how often each expert was chosen, layer by layer
    #[arg(long, value_name = "FILE.json", value_parser = with_extension("json"))]
    expert_use: Option<PathBuf>,
    #[command(flatten)]
    ignored: Ignored,
    #[command(flatten)]
    printing: Printing,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let Self { tokens, batch, decode, seed, tolerance, trace, printing, .. } = self;
        let console = Console::new(printing.quiet)?;
        let request = VerifyRequest {
            models: self.models,
            checkpoint: self.checkpoint,
            adapters: self.adapters,
            adapter_layout: self.layout.order(),
            ignored: self.ignored.names(),
            inputs: InputOptions { tokens, batch, decode, seed },
            text: self.text.source(),
            tolerance,
            onnxruntime: self.onnxruntime,
            trace,
        };
        self.expert_use.iter().try_for_each(|path| ExpertUse::require_new(path))?;
        let report = verify(&request, &console)?;
        self.expert_use.iter().try_for_each(|path| report.comparison.expert_use.write(path))?;
        printing.show(&report)?;
        exit_status(&report, "")
    }
}

/// What the command calls a setting; a staged weights file is a checkpoint here.
pub fn has(setting: Setting) -> Option<Setting> {
    use Setting::{
        Adapter, AdapterLayout, Checkpoint, IgnoreConfigKey, IgnoreTensor, Onnxruntime, TextField,
        Tokenizer, Tokens, Tolerance, Weights,
    };
    match setting {
        Weights => Some(Checkpoint),
        Adapter | AdapterLayout | Checkpoint | IgnoreConfigKey | IgnoreTensor | Onnxruntime
        | TextField | Tokenizer | Tokens | Tolerance => Some(setting),
        _ => None,
    }
}

/// An error if the model does not pass, with a hint besides.
pub fn exit_status(report: &Report, hint: &str) -> Result<()> {
    if report.passed {
        return Ok(());
    }
    let is_traced =
        report.agrees() || report.comparison.trace.is_some() || !report.changed_data.is_empty();
    let trace = if is_traced { "" } else { "; `verify --trace` shows where" };
    Err(report.departure(&format!("{hint}{trace}")).into())
}

pub fn tolerance(text: &str) -> Result<f64, &'static str> {
    from_zero(text).ok_or("expected a number such as 1e-4")
}
