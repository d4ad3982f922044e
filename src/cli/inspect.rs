//! What there is to look at.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{ArgAction, Args};
use gpt_oss_export::checkpoint::Leniency;
use gpt_oss_export::inspect::{Filter, inspect};
use gpt_oss_export::progress::Progress;

use super::console::{Console, print, print_json};

/// Tell what a checkpoint, a weights file or a model is, from headers and samples alone; ends with status 1 where a model's data is not all there.
#[derive(Args, Debug)]
pub struct Inspect {
    /// Folder of a checkpoint, a .safetensors file or an .onnx file
    path: PathBuf,
    /// List the tensors whose names fit a pattern with * and ?
    #[arg(long, value_name = "PATTERN")]
    tensors: Option<String>,
    /// Read all weights too, in search of infinity, NaN and invalid scales; ends with status 1 where there are any
    #[arg(long)]
    scan: bool,
    /// Accept this key in config.json although its meaning is unknown
    #[arg(long, value_name = "KEY", action = ArgAction::Append)]
    ignore_config_key: Vec<String>,
    /// Accept this tensor in the checkpoint although the layout does not have it, or those that fit a pattern
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    ignore_tensor: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Looks, and says what it sees.
    pub fn run(self) -> Result<()> {
        let console = self.scan.then(|| Console::new(self.json)).transpose()?;
        let progress = console.as_ref().map(|console| console as &dyn Progress);
        let filter = Filter::new(self.tensors.as_deref())?;
        let leniency =
            Leniency { config_keys: self.ignore_config_key, tensors: self.ignore_tensor };
        let inspection = inspect(&self.path, &filter, &leniency, progress)?;
        match self.json {
            true => print_json(&inspection)?,
            false => print(inspection.to_string().trim_end())?,
        }
        let damaged = inspection.scan().map_or(0, |scan| scan.damaged.len());
        ensure!(inspection.is_whole(), "the model cannot run: its data is not all there");
        ensure!(damaged == 0, "the checkpoint is damaged: use another copy");
        Ok(())
    }
}
