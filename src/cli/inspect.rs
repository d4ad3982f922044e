//! `gpt-oss-export inspect`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gpt_oss_export::error::{Error, Setting};
use gpt_oss_export::inspect::{Filter, Inspection, inspect};
use gpt_oss_export::progress::Progress;
use serde::Serialize;

use super::console::{Console, print, print_json, warn};
use super::remedy::{Refusal, options};
use super::values::{Accepted, Json};

/// Describe a checkpoint, a LoRA adapter, any other folder, a weights file or a model
///
/// For a folder that cannot be exported, it lists the files and every fault; a fault may hide others,
/// which are listed once it is mended. Reads headers and samples only, unless --scan is given. Ends
/// with status 1 if a folder, weights file or adapter cannot be exported, or if a model's external
/// data is incomplete or changed.
#[derive(Args, Debug)]
#[command(mut_arg("json", |it| it.help("Print one JSON object")))]
pub struct Inspect {
    /// Folder, or .safetensors, .onnx or .onnx_adapter file
    path: PathBuf,
    /// List tensors whose names match a pattern with * and ?
    #[arg(long, value_name = "PATTERN")]
    tensors: Option<String>,
    /// Read all values, and list damaged tensors and tensors of zeros
    ///
    /// A tensor with infinite or NaN values is damaged: the status is 1. A tensor of zeros may be
    /// intended, or left by an unfinished download; biases of zeros are not listed. Without this
    /// option only samples are read.
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    ignored: Accepted,
    #[command(flatten)]
    json: Json,
}

/// An inspection as JSON.
#[derive(Serialize)]
struct Described<'i> {
    #[serde(flatten)]
    inspection: &'i Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    exportable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacles: Option<Vec<Refusal>>,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let Json { json } = self.json;
        let console = self.scan.then(|| Console::new(json)).transpose()?;
        let progress = console.as_ref().map(|console| console as &dyn Progress);
        let filter = Filter::new(self.tensors.as_deref())?;
        let inspection = inspect(&self.path, &filter, &self.ignored.names(), progress)?;
        if json {
            print_json(&Described {
                inspection: &inspection,
                exportable: inspection.is_exportable(),
                obstacles: inspection.refusal().map(|it| Refusal::each(it, Some)),
            })?;
        } else {
            let mut table = inspection.table();
            if inspection.can_be_scanned() {
                let scan = options([(Setting::Scan, &*self.path.display().to_string())]);
                table.row("next", format!("`{scan}` reads every value"));
            }
            print(&table.to_string())?;
        }
        let damaged = inspection.scan().map_or(0, |scan| scan.damaged.len());
        let path = self.path.display();
        let wrong = |fault: String| {
            Error::new(format!("the external data of `{path}` is not what it expects: {fault}"))
        };
        Error::all(inspection.faults().into_iter().map(wrong))?;
        let why = || format!("`{path}` has damaged tensors ({damaged}): use another copy");
        inspection.warnings().iter().for_each(|it| warn(it));
        let refusal = inspection.require_exportable().err();
        let damage = (damaged > 0 && refusal.is_none()).then(|| Error::new(why()));
        Ok(Error::all(damage.into_iter().chain(refusal))?)
    }
}
