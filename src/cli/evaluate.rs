//! `gpt-oss-export evaluate`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use gpt_oss_export::error::Setting;
use gpt_oss_export::evaluate::{EvaluateRequest, ExportFormats, Exports, evaluate, write_report};
use gpt_oss_export::export::{AdapterSource, Request, RequestedAdapter, Source, Target};
use gpt_oss_export::verify::ExpertUse;

use super::console::Console;
use super::values::{
    self, Accepted, AdapterLayout, Printing, TextInput, adapter, export_formats, number, one_of,
    with_extension,
};
use super::verify;

const TEXT_HELP: &str = "Text to predict, in windows of --tokens";

/// Compare several exports of one checkpoint on a text: loss, size, memory and speed
///
/// The reference of `verify` reads the text once, and models run in onnxruntime one after the other.
/// Speed and memory are measured: run nothing else meanwhile.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("exports").required(true).multiple(true).args(["models", "formats"])))]
#[command(mut_arg("text", |it| it.help(TEXT_HELP).required(true)))]
pub struct Evaluate {
    /// Models or their folders; of a model in stages, one stage stands for all
    #[arg(value_name = "FILE.onnx|DIR")]
    models: Vec<PathBuf>,
    /// Checkpoint folder or staged weights file that the models were made from
    #[arg(long, value_name = "DIR|FILE")]
    checkpoint: PathBuf,
    /// Formats to export temporarily, and to evaluate too
    ///
    /// Formats of --experts, or of --experts and --dense as int4+int8. The exports are written to
    /// a temporary folder (TMPDIR), and removed. They have a cache.
    #[arg(long, value_name = "EXPERTS[+DENSE],…", value_parser = export_formats, value_delimiter = ',')]
    formats: Vec<ExportFormats>,
    /// Operators of the exports of --formats [default: onnx]
    #[arg(long, value_name = "TARGET", value_parser = one_of(values::TARGETS), requires = "formats")]
    target: Option<Target>,
    #[command(flatten)]
    text: TextInput,
    /// Tokens of a window [default: 512]
    #[arg(long, value_name = "N", value_parser = number::<usize>(2..=1_048_576))]
    tokens: Option<usize>,
    /// Report to write, a page with plots; an existing one is replaced
    #[arg(long, value_name = "FILE.html", value_parser = with_extension("html"))]
    report: Option<PathBuf>,
    /// File to write with how often each expert was chosen, layer by layer
    #[arg(long, value_name = "FILE.json", value_parser = with_extension("json"))]
    expert_use: Option<PathBuf>,
    /// LoRA adapter of all models; with its weight as DIR=0.7
    #[arg(long = "adapter", value_name = "DIR|FILE[=WEIGHT]", value_parser = adapter())]
    adapters: Vec<AdapterSource>,
    #[command(flatten)]
    layout: AdapterLayout,
    /// onnxruntime library, or its folder [default: ORT_DYLIB_PATH, system, python3]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    ignored: Accepted,
    #[command(flatten)]
    printing: Printing,
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let console = Console::new(self.printing.quiet)?;
        self.expert_use.iter().try_for_each(|path| ExpertUse::require_new(path))?;
        let source = if self.checkpoint.is_file() { Source::Staged } else { Source::Checkpoint };
        let mut base = Request::new(source(self.checkpoint.clone()));
        base.ignored = self.ignored.names();
        base.target = self.target;
        let local = |it: &AdapterSource| RequestedAdapter { source: it.clone(), hub: None };
        base.adapters = self.adapters.iter().map(local).collect();
        base.adapter_layout = self.layout.order();
        let exports = Exports::new(&base, &self.formats, &console)?;
        let request = EvaluateRequest {
            models: [self.models, exports.models.clone()].concat(),
            checkpoint: self.checkpoint,
            adapters: self.adapters,
            adapter_layout: self.layout.order(),
            ignored: self.ignored.names(),
            text: self.text.source().expect("clap requires a text"),
            tokens: self.tokens,
            onnxruntime: self.onnxruntime,
        };
        let evaluation = evaluate(&request, &console)?;
        self.report.iter().try_for_each(|path| write_report(&evaluation, path))?;
        self.expert_use.iter().try_for_each(|path| evaluation.reference.expert_use.write(path))?;
        self.printing.show(&evaluation)
    }
}

/// What the command calls a setting.
pub fn has(setting: Setting) -> Option<Setting> {
    verify::has(setting).filter(|it| *it != Setting::Tolerance)
}
