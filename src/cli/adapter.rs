//! `gpt-oss-export adapter`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gpt_oss_export::error::Setting;
use gpt_oss_export::export::{AdapterRequest, AdapterSource, FactorOrder, export_adapter};

use super::console::{Console, show};
use super::values::{self, Ignored, adapter, one_of, with_extension};

/// Write a LoRA adapter as a file that runtimes load beside a swappable model
///
/// The model was exported with --adapter-as swappable. Its checkpoint is not needed: the model says
/// which matrices adapters may change. An adapter that changes more is refused.
#[derive(Args, Debug)]
pub struct WriteAdapter {
    /// Adapter folder or file; with a weight as DIR=0.7
    #[arg(value_name = "DIR|FILE[=WEIGHT]", value_parser = adapter())]
    adapter: AdapterSource,
    /// Swappable model that the adapter is for
    #[arg(long = "for", value_name = "FILE.onnx")]
    model: PathBuf,
    /// Adapter file to write; an existing one is replaced
    #[arg(short, long, value_name = "NAME.onnx_adapter", value_parser = with_extension("onnx_adapter"))]
    output: PathBuf,
    /// How the adapter stores the factors of experts, if its files do not tell
    #[arg(long, value_name = "LAYOUT", value_parser = one_of(values::ADAPTER_LAYOUTS))]
    adapter_layout: Option<FactorOrder>,
    #[command(flatten)]
    ignored: Ignored,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
}

impl WriteAdapter {
    pub fn run(self) -> Result<()> {
        let console = Console::new(self.quiet)?;
        let request = AdapterRequest {
            adapter: self.adapter,
            model: self.model,
            output: self.output,
            adapter_layout: self.adapter_layout,
            ignored: self.ignored.names(),
        };
        let summary = export_adapter(&request, &console)?;
        if self.quiet { Ok(()) } else { show(&summary, self.json) }
    }
}

/// Whether the command has an option for a setting; otherwise an export does.
pub fn has(setting: Setting) -> bool {
    use Setting::{AdapterLayout, IgnoreConfigKey, IgnoreTensor};
    [AdapterLayout, IgnoreConfigKey, IgnoreTensor].contains(&setting)
}
