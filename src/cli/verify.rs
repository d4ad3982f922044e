//! `gpt-oss-export verify`, and `--verify` of an export.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use gpt_oss_export::export::{IgnoredNames, Spec, Summary};
use gpt_oss_export::verify::{InputOptions, Report, VerifyRequest, prepare, verify};

use super::console::{Console, print, print_json};
use super::values::Ignored;

/// Compare a model's logits in onnxruntime with a float64 reference
///
/// The reference is a plain forward pass over the checkpoint. Weights are compared byte for
/// byte. Ends with status 1 if the model departs.
#[derive(Args, Debug)]
pub struct Verify {
    /// Model to verify
    #[arg(value_name = "FILE.onnx")]
    model: PathBuf,
    /// Checkpoint folder or staged weights file that the model was made from
    #[arg(long, value_name = "DIR|FILE")]
    checkpoint: PathBuf,
    /// Length of the longest text in tokens [default: sliding window + 32]
    #[arg(long, value_name = "N", value_parser = count)]
    tokens: Option<usize>,
    /// Number of texts, of unequal lengths [default: 3 with attention_mask, else 1]
    #[arg(long, value_name = "N", value_parser = count)]
    batch: Option<usize>,
    /// Number of decode steps after the prompt [default: 16 with a cache]
    ///
    /// Without a cache each step runs the whole text, and the default is 0, or 4 if the model
    /// computes the last logits only.
    #[arg(long, value_name = "N")]
    decode: Option<usize>,
    /// Seed of the random tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Largest absolute logit error [default: 8 times float32's noise]
    ///
    /// The noise is measured: the reference in float32 against itself in float64.
    #[arg(long, value_name = "X", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// onnxruntime library, or its folder [default: ORT_DYLIB_PATH, system, python3]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Compare the residual stream after each layer too
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    ignored: Ignored,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let console = Console::new(self.quiet)?;
        let request = VerifyRequest {
            model: self.model,
            checkpoint: self.checkpoint,
            ignored: self.ignored.into(),
            inputs: InputOptions {
                tokens: self.tokens,
                batch: self.batch,
                decode: self.decode,
                seed: self.seed,
            },
            tolerance: self.tolerance,
            onnxruntime: self.onnxruntime,
            trace: self.trace,
        };
        let report = verify(&request, &console)?;
        if self.json {
            print_json(&report)?;
        } else if !self.quiet {
            print(&report.to_string())?;
        }
        exit_status(&report, "")
    }
}

/// Heading of the options that verify an export.
pub const CHECKS: &str = "Checks";

/// How an export is verified.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// With --verify: largest absolute logit error [default: 8 times float32's noise]
    #[arg(help_heading = CHECKS, long, value_name = "X", value_parser = tolerance, requires = "verify")]
    tolerance: Option<f64>,
    /// With --verify: onnxruntime library or its folder
    ///
    /// By default that of ORT_DYLIB_PATH, of the system, or of python3.
    #[arg(help_heading = CHECKS, long, value_name = "PATH", requires = "verify")]
    onnxruntime: Option<PathBuf>,
}

impl Check {
    /// Refuses what cannot be verified before anything is written.
    pub fn prepare(&self, spec: &Spec) -> Result<()> {
        let Some(options) = spec.graph() else { return Ok(()) };
        Ok(prepare(options, &spec.formats()?, self.tolerance, self.onnxruntime.as_deref())?)
    }

    /// Verifies a new model against its source.
    pub fn run(
        self,
        summary: &Summary,
        ignored: IgnoredNames,
        console: &Console,
    ) -> Result<Report> {
        let model = summary.model.as_ref().expect("--verify comes with a model");
        let request = VerifyRequest {
            model: model.path.clone(),
            checkpoint: summary.source.clone(),
            ignored,
            tolerance: self.tolerance,
            onnxruntime: self.onnxruntime,
            ..VerifyRequest::default()
        };
        verify(&request, console).context("the model is written, and could not be verified")
    }
}

/// An error if the model departs, with a hint besides.
pub fn exit_status(report: &Report, hint: &str) -> Result<()> {
    let trace =
        if report.comparison.trace.is_some() { "" } else { "; `verify --trace` shows where" };
    ensure!(report.passed, "{}{hint}{trace}", report.departure());
    Ok(())
}

fn count(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|number| (1..=1_048_576).contains(number));
    number.ok_or("expected a number from 1 to 1048576")
}

fn tolerance(text: &str) -> Result<f64, &'static str> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or("expected a number such as 1e-4")
}
