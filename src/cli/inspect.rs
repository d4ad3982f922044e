//! What there is to look at.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gpt_oss_export::inspect::{Filter, inspect};

use super::console::print;

/// Tell what a checkpoint, a weights file or a model is, from headers alone.
#[derive(Args, Debug)]
pub struct Inspect {
    /// Folder of a checkpoint, a .safetensors file or an .onnx file
    path: PathBuf,
    /// List the tensors whose names fit a pattern with * and ?
    #[arg(long, value_name = "PATTERN")]
    tensors: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Looks, and says what it sees.
    pub fn run(self) -> Result<()> {
        let inspection = inspect(&self.path, &Filter::new(self.tensors.as_deref())?)?;
        match self.json {
            true => print(&serde_json::to_string(&inspection)?),
            false => print(inspection.to_string().trim_end()),
        }
    }
}
