//! `gpt-oss-export verify`, and `--verify` on an export.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{ArgAction, Args};
use gpt_oss_export::checkpoint::Leniency;
use gpt_oss_export::export::{self, Summary};
use gpt_oss_export::model::Provider;
use gpt_oss_export::verify::{Report, Request, check_promise, library, verify};

use super::console::{Console, print, print_json};

/// Run a model in onnxruntime, and compare its logits with those of a plain forward pass over the checkpoint, in float64.
#[derive(Args, Debug)]
pub struct Verify {
    /// The model
    #[arg(value_name = "FILE.onnx")]
    model: PathBuf,
    /// Folder of the checkpoint that it was made from, or weights that --save-weights has staged
    #[arg(long, value_name = "DIR|FILE")]
    checkpoint: PathBuf,
    /// Tokens of the longest text (32 beyond the sliding window otherwise)
    #[arg(long, value_name = "N", value_parser = count)]
    tokens: Option<usize>,
    /// Texts at once, of unequal lengths (3 otherwise where the model takes a mask, else 1)
    #[arg(long, value_name = "N", value_parser = count)]
    batch: Option<usize>,
    /// How many of the tokens come one by one, after the others (16 otherwise; without a cache each is a run from the beginning, and few or none come so)
    #[arg(long, value_name = "N")]
    decode: Option<usize>,
    /// Which random tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The largest absolute difference of a logit that is allowed (what the model promises otherwise)
    #[arg(long, value_name = "X", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// onnxruntime's library, or its folder (otherwise that of ORT_DYLIB_PATH, the system or python3)
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Compare the residual stream after each layer too, and say where it departs
    #[arg(long)]
    trace: bool,
    /// Accept this key in config.json although its meaning is unknown
    #[arg(long, value_name = "KEY", action = ArgAction::Append)]
    ignore_config_key: Vec<String>,
    /// Accept this tensor in the checkpoint although the layout does not have it
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    ignore_tensor: Vec<String>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
}

impl Verify {
    /// Verifies, prints the report, and fails where the model does.
    pub fn run(self) -> Result<()> {
        let (json, quiet) = (self.json, self.quiet);
        let console = Console::new(quiet)?;
        let report = verify(&self.request(), &console)?;
        match (quiet, json) {
            (true, _) => {}
            (false, true) => print_json(&report)?,
            (false, false) => print(&report.to_string())?,
        }
        judge(&report, "")
    }

    fn request(self) -> Request {
        Request {
            model: self.model,
            checkpoint: self.checkpoint,
            leniency: Leniency { config_keys: self.ignore_config_key, tensors: self.ignore_tensor },
            tokens: self.tokens,
            batch: self.batch,
            decode: self.decode,
            seed: self.seed,
            tolerance: self.tolerance,
            onnxruntime: self.onnxruntime,
            trace: self.trace,
        }
    }
}

/// The heading of an export's options for it.
pub const CHECKS: &str = "Checking the result";

/// How an export is to be verified.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// With --verify: the largest absolute difference of a logit that is allowed (what the model promises otherwise)
    #[arg(help_heading = CHECKS, long, value_name = "X", value_parser = tolerance, requires = "verify")]
    tolerance: Option<f64>,
    /// With --verify: onnxruntime's library, or its folder (otherwise that of ORT_DYLIB_PATH, the system or python3)
    #[arg(help_heading = CHECKS, long, value_name = "PATH", requires = "verify")]
    onnxruntime: Option<PathBuf>,
}

impl Check {
    /// What is missing is said before anything is written.
    pub fn ready(&self, request: &export::Request) -> Result<()> {
        let options = &request.graph;
        let provider = options.provider;
        ensure!(
            provider == Provider::Cpu,
            "--verify runs a model on a CPU, and does not go with --ep {provider}: verify one of --ep cpu, which has the same numbers"
        );
        if self.tolerance.is_none() {
            check_promise(options, [request.formats.experts, request.formats.dense])?;
        }
        library(self.onnxruntime.as_deref(), options.target)?;
        Ok(())
    }

    /// Verifies what an export has just written, against what it was made of.
    pub fn exported(
        self,
        request: &export::Request,
        summary: &Summary,
        console: &Console,
    ) -> Result<Report> {
        let request = Request {
            model: request.output.clone().expect("--verify comes with a model"),
            checkpoint: summary.source.clone(),
            leniency: request.leniency.clone(),
            tolerance: self.tolerance,
            onnxruntime: self.onnxruntime,
            ..Request::default()
        };
        verify(&request, console).context("the model is written, and could not be verified")
    }
}

/// The status of a verification; of one that fails, what is to be said besides.
pub fn judge(report: &Report, besides: &str) -> Result<()> {
    let hint = if report.trace.is_some() { "" } else { "; `verify --trace` shows where" };
    ensure!(report.passed, "{}{besides}{hint}", report.departure());
    Ok(())
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=1_048_576).contains(&number) => Ok(number),
        _ => Err("expected a number from 1 to 1048576".to_owned()),
    }
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("expected a number such as 1e-4".to_owned()),
    }
}
