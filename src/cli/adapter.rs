//! `gpt-oss-export adapter`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gpt_oss_export::error::Setting;
use gpt_oss_export::export::{AdapterRequest, AdapterSource, export_adapter};

use super::console::{Console, warn};
use super::values::{AdapterLayout, Ignored, Printing, adapter, with_extension};

const LAYOUT_HELP: &str = "How the adapter stores the factors of experts, if its files do not tell";

/// Write a LoRA adapter as a file that runtimes load beside a swappable model
///
/// The model was exported with --adapter-as swappable. Its checkpoint is not needed: the model says
/// which matrices adapters may change. An adapter that changes more is refused. For a model in stages,
/// run it for each stage: a stage gets what changes its own layers.
#[derive(Args, Debug)]
#[command(mut_arg("adapter_layout", |it| it.help(LAYOUT_HELP)))]
pub struct WriteAdapter {
    /// Adapter folder or file; with a weight as DIR=0.7
    #[arg(id = "adapters", value_name = "DIR|FILE[=WEIGHT]", value_parser = adapter())]
    adapter: AdapterSource,
    /// Swappable model that the adapter is for
    #[arg(long = "for", value_name = "FILE.onnx")]
    model: PathBuf,
    /// Adapter file to write; an existing one is replaced
    #[arg(short, long, value_name = "NAME.onnx_adapter", value_parser = with_extension("onnx_adapter"))]
    output: PathBuf,
    #[command(flatten)]
    layout: AdapterLayout,
    #[command(flatten)]
    ignored: Ignored,
    #[command(flatten)]
    printing: Printing,
}

impl WriteAdapter {
    pub fn run(self) -> Result<()> {
        let printing = self.printing;
        let console = Console::new(printing.quiet)?;
        let request = AdapterRequest {
            adapter: self.adapter,
            model: self.model,
            output: self.output,
            adapter_layout: self.layout.order(),
            ignored: self.ignored.names(),
        };
        let summary = export_adapter(&request, &console)?;
        summary.warning.iter().for_each(|it| warn(it));
        printing.show(&summary)
    }
}

/// The settings that the command has.
pub fn has(setting: Setting) -> Option<Setting> {
    use Setting::{AdapterLayout, IgnoreConfigKey, IgnoreTensor};
    [AdapterLayout, IgnoreConfigKey, IgnoreTensor].contains(&setting).then_some(setting)
}
