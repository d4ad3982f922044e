//! `gpt-oss-export inspect`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use gpt_oss_export::inspect::{Filter, inspect};
use gpt_oss_export::progress::Progress;

use super::console::{Console, show};
use super::values::Ignored;

/// Describe a checkpoint, a weights file, a LoRA adapter or a model
///
/// Reads headers and samples alone unless --scan is given. Ends with status 1 if a model's
/// external data is incomplete.
#[derive(Args, Debug)]
pub struct Inspect {
    /// Folder of a checkpoint or an adapter, .safetensors file or .onnx file
    path: PathBuf,
    /// List tensors whose names match a pattern with * and ?
    #[arg(long, value_name = "PATTERN")]
    tensors: Option<String>,
    /// Read all weights and report infinite and NaN values
    ///
    /// Ends with status 1 if there are any.
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    ignored: Ignored,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let console = self.scan.then(|| Console::new(self.json)).transpose()?;
        let progress = console.as_ref().map(|console| console as &dyn Progress);
        let filter = Filter::new(self.tensors.as_deref())?;
        let inspection = inspect(&self.path, &filter, &self.ignored.names(), progress)?;
        show(&inspection, self.json)?;
        let damaged = inspection.scan().map_or(0, |scan| scan.damaged.len());
        let path = self.path.display();
        ensure!(inspection.is_whole(), "`{path}` cannot run: its external data is incomplete");
        ensure!(damaged == 0, "`{path}` has damaged tensors ({damaged}): use another copy");
        Ok(())
    }
}
