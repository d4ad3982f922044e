//! Options of an export.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::{ArgAction, ArgGroup, Args};
use gpt_oss_export::display::{self, Table, shell_quote};
use gpt_oss_export::error::{Error, Setting};
use gpt_oss_export::export::{
    AdapterAs, AdapterSource, Cut, DType, ExternalData, HubSource, HubSummary, MatrixFormat,
    ModuleGroup, Preset, Provider, RepoPath, Request, RequestedAdapter, SlidingCache, Source, Spec,
    Summary, Target, export, similar_dir,
};
use gpt_oss_export::verify::{Report, VerifyRequest, prepare, verify};
use serde::Serialize;

use super::console::{Console, print, print_json, warn};
use super::place::Place;
use super::remedy::{options, pass};
use super::stages::LayerOptions;
use super::values::{
    self, Accepted, AdapterLayout, Printing, adapter, number, one_of, with_extension,
};
use super::verify::{exit_status, tolerance};

const SOURCE: &str = "Source";
const OUTPUT: &str = "Output";
const PRECISION: &str = "Precision";
const GRAPH: &str = "Graph";
const CHECKS: &str = "Checks";

/// Names of OpenAI's repositories.
const RELEASED: [&str; 2] = ["gpt-oss-20b", "gpt-oss-120b"];

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("origin").required(true)))]
#[command(group(ArgGroup::new("formats").multiple(true).args(["experts", "dense"])))]
pub struct Export {
    /// Checkpoint folder, or owner/name on the Hugging Face hub
    ///
    /// The folder holds config.json and SafeTensors files, in OpenAI's layout or one of
    /// Hugging Face's. A repository may have a revision and a folder:
    /// owner/name@revision/folder. With the prefix hf: (hf:owner/name/folder), or as the address of its
    /// page (https://huggingface.co/owner/name), it is never taken for a local path.
    #[arg(help_heading = SOURCE, long, value_name = "DIR|REPO", group = "origin")]
    checkpoint: Option<PathBuf>,
    /// Weights file staged by --save-weights, instead of a checkpoint
    #[arg(help_heading = SOURCE, long, value_name = "FILE", group = "origin")]
    weights: Option<PathBuf>,
    /// Folder for downloads [default: owner--name beside the output]
    #[arg(help_heading = SOURCE, long, value_name = "DIR", conflicts_with = "weights")]
    download_dir: Option<PathBuf>,
    /// Use only files that were downloaded before
    ///
    /// Files in the download folder and in the cache of Hugging Face's own tools are used.
    #[arg(help_heading = SOURCE, long, conflicts_with = "weights")]
    offline: bool,
    /// Fetch headers instead of weights, and write the graph alone
    ///
    /// The model runs once its weights are downloaded, by the same command without this option.
    #[arg(help_heading = SOURCE, long, conflicts_with_all = ["weights", "offline", "save_weights", "experts", "dense"])]
    headers_only: bool,
    /// LoRA adapter to add: folder, file or owner/name; with a weight as DIR=0.7
    ///
    /// May be given several times: adapters add up. By default the model reads the adapter's own file,
    /// and nothing is rounded. A repository is fetched into owner--name beside the output. NAME=
    /// replaces the name of the folder.
    #[arg(help_heading = SOURCE, long = "adapter", value_name = "[NAME=]DIR|FILE|REPO[=WEIGHT]", value_parser = adapter())]
    adapters: Vec<AdapterSource>,
    /// How the model contains adapters [default: inline]
    #[arg(help_heading = SOURCE, long, value_name = "HOW", value_parser = one_of(values::ADAPTER_AS))]
    adapter_as: Option<AdapterAs>,
    /// What swappable adapters may change [default: what --adapter changes]
    ///
    /// Added to the modules that --adapter changes. Without either, the default is attention. May be
    /// given several times.
    #[arg(help_heading = SOURCE, long, value_name = "MODULES", value_parser = one_of(values::ADAPTER_MODULES), value_delimiter = ',', action = ArgAction::Append)]
    adapter_modules: Vec<ModuleGroup>,
    #[command(flatten, next_help_heading = SOURCE)]
    layout: AdapterLayout,
    #[command(flatten, next_help_heading = SOURCE)]
    ignored: Accepted,

    /// ONNX file to write; an existing one is replaced
    #[arg(help_heading = OUTPUT, short, long, value_name = "FILE", required_unless_present = "skip_onnx", value_parser = with_extension("onnx"))]
    output: Option<PathBuf>,
    #[command(flatten, next_help_heading = OUTPUT)]
    layers: LayerOptions,
    /// Use the settings that suit a runtime
    ///
    /// Sets target, execution provider, cache, logits, formats and companion files, and
    /// prints what it set. Other options override it.
    #[arg(help_heading = OUTPUT, long = "for", value_name = "RUNTIME", value_parser = one_of(values::PRESETS), conflicts_with = "skip_onnx")]
    preset: Option<Preset>,
    /// Where the model reads its weights [default: auto]
    #[arg(help_heading = OUTPUT, long, value_name = "WHERE", value_parser = one_of(values::EXTERNAL_DATA))]
    external_data: Option<ExternalData>,
    /// Copy the weights into files of at most this size, such as 2GB
    #[arg(help_heading = OUTPUT, long, value_name = "SIZE", value_parser = size, conflicts_with_all = ["skip_onnx", "save_weights", "headers_only"])]
    max_shard_size: Option<ByteSize>,
    /// Write the files that onnxruntime-genai needs beside the model
    ///
    /// genai_config.json and the tokenizer's files. Implies --kv-cache and --last-logits;
    /// `--for genai` sets --target ort too.
    #[arg(help_heading = OUTPUT, long, conflicts_with = "skip_onnx")]
    genai: bool,
    /// Longest text of onnxruntime-genai in tokens [default: a cache of at most 1 GiB]
    #[arg(help_heading = OUTPUT, long, value_name = "N", value_parser = number::<u64>(1..=u64::MAX), conflicts_with = "skip_onnx")]
    max_length: Option<u64>,
    /// Let onnxruntime-genai draft tokens where a text repeats itself
    ///
    /// It verifies up to 8 drafts in a step, so that code and quotations are generated faster; the
    /// most likely tokens stay the same. Logits are those of all tokens. Implies --target ort,
    /// --batch-size 1 and --sliding-cache full.
    #[arg(help_heading = OUTPUT, long, conflicts_with = "skip_onnx")]
    speculative: bool,
    /// Write a folder for transformers.js: --output DIR/onnx/model[_DTYPE].onnx
    ///
    /// Names weights files as transformers.js expects them, in files of less than 2 GB, and
    /// writes config.json and the tokenizer's files into DIR. Implies --kv-cache and
    /// --last-logits; `--for transformers-js` sets --target ort, --ep webgpu and --experts
    /// int4 too.
    #[arg(help_heading = OUTPUT, long, conflicts_with_all = ["skip_onnx", "save_weights", "genai", "headers_only"])]
    transformers_js: bool,
    /// Stage the weights in one file, from which models can be exported later
    ///
    /// A model in the file's folder or above reads it in place; any other gets a copy. Later:
    /// --weights FILE.
    #[arg(help_heading = OUTPUT, long, value_name = "FILE", value_parser = with_extension("safetensors"))]
    save_weights: Option<PathBuf>,
    /// Stage weights only, write no model
    #[arg(help_heading = OUTPUT, long, requires = "save_weights", conflicts_with = "output")]
    skip_onnx: bool,
    #[command(flatten, next_help_heading = OUTPUT)]
    printing: Printing,

    /// Convert experts to a format [default: as in the checkpoint]
    ///
    /// int8 and int4 round, but int8 is exact for MXFP4. Other conversions are exact or refused;
    /// --accept-rounding lets them round. With --adapter-as merge only merged matrices are converted,
    /// for GPUs (--ep) all of them.
    #[arg(help_heading = PRECISION, long, value_name = "FORMAT", value_parser = one_of(values::EXPERTS_FORMATS))]
    experts: Option<MatrixFormat>,
    /// Convert attention and lm_head to a format [default: as in the checkpoint]
    ///
    /// Routers and the embedding are never converted. --adapter-as merge: see --experts.
    #[arg(help_heading = PRECISION, long, value_name = "FORMAT", value_parser = one_of(values::DENSE_FORMATS))]
    dense: Option<MatrixFormat>,
    /// Allow --experts and --dense to round to mxfp4, nvfp4, int4x2, bf16, f16 or f32
    #[arg(help_heading = PRECISION, long, requires = "formats")]
    accept_rounding: bool,
    /// Dtype of attention, matrix products and cache [default: f32, on GPUs f16]
    ///
    /// The residual stream and norms are always f32, and the products of routers.
    #[arg(help_heading = PRECISION, long, value_name = "DTYPE", value_parser = one_of(values::COMPUTE_DTYPES))]
    compute: Option<DType>,
    /// Keep activations in float with integer weights
    ///
    /// ONNX Runtime's fast integer kernels on CPUs quantize activations to 8 bits.
    #[arg(help_heading = PRECISION, long)]
    keep_activations: bool,

    /// Operators of the graph [default: onnx]
    #[arg(help_heading = GRAPH, long, value_name = "TARGET", value_parser = one_of(values::TARGETS))]
    target: Option<Target>,
    /// Execution provider that --target ort is for [default: cpu]
    #[arg(help_heading = GRAPH, long, value_name = "PROVIDER", value_parser = one_of(values::PROVIDERS))]
    ep: Option<Provider>,
    /// Add inputs and outputs for the key-value cache; --target ort always has them
    #[arg(help_heading = GRAPH, long)]
    kv_cache: bool,
    /// What caches of sliding layers keep [default: window]
    ///
    /// Logits are the same. With window, programs can take back up to 16 tokens, and
    /// onnxruntime-genai cannot rewind long texts.
    /// With --target onnx --genai the default is full.
    #[arg(help_heading = GRAPH, long, value_name = "KEEP", value_parser = one_of(values::SLIDING_CACHES))]
    sliding_cache: Option<SlidingCache>,
    /// Compute logits of the last token of each row only
    #[arg(help_heading = GRAPH, long)]
    last_logits: bool,
    /// Write model-local functions that equal layers share
    #[arg(help_heading = GRAPH, long)]
    functions: bool,
    /// Fix the number of rows in a batch [default: symbol B]
    #[arg(help_heading = GRAPH, long, value_name = "N", value_parser = number::<u64>(1..=65_536))]
    batch_size: Option<u64>,
    /// Fix the number of tokens in a row [default: symbol T]
    #[arg(help_heading = GRAPH, long, value_name = "N", value_parser = number::<u64>(1..=1_048_576))]
    seq_len: Option<u64>,
    /// Keep the batch axis symbolic despite --batch-size, for scripts
    #[arg(help_heading = GRAPH, long, hide_short_help = true)]
    dynamic_b: bool,
    /// Keep the sequence axis symbolic despite --seq-len, for scripts
    #[arg(help_heading = GRAPH, long, hide_short_help = true)]
    dynamic_seq: bool,

    /// Run the model in onnxruntime and compare its logits with the checkpoint's
    ///
    /// The same as the command `verify` after the export.
    #[arg(help_heading = CHECKS, long, conflicts_with_all = ["skip_onnx", "headers_only"])]
    verify: bool,
    /// With --verify: largest absolute logit error [default: 8 times float32's noise]
    #[arg(help_heading = CHECKS, long, value_name = "X", value_parser = tolerance, requires = "verify", allow_hyphen_values = true)]
    tolerance: Option<f64>,
    /// With --verify: onnxruntime library or its folder
    ///
    /// By default that of ORT_DYLIB_PATH, of the system, or of python3.
    #[arg(help_heading = CHECKS, long, value_name = "PATH", requires = "verify")]
    onnxruntime: Option<PathBuf>,
}

/// The summary of an export, and the report of its verification.
#[derive(Serialize)]
struct Outcome<'r> {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<&'r Report>,
    /// Of a swappable model with each of its adapters in turn.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    adapter_verifications: &'r [Report],
}

const LOST: &str = "the export succeeded, but its summary could not be printed";

impl Export {
    pub fn run(self) -> Result<()> {
        let console = Console::new(self.printing.quiet)?;
        let request = self.request()?;
        let adapter_as = request.adapter_as;
        let adapters: Vec<AdapterSource> =
            request.adapters.iter().map(|it| it.source.clone()).collect();
        let is_part = request.only_stage.is_some() || matches!(request.cut, Some(Cut::Part(_)));
        if self.verify && is_part {
            bail!(
                "--verify runs all layers: leave it out, and run `verify` once all stages are written"
            );
        }
        let spec = Spec::resolve(request)?;
        if let Some(options) = spec.graph().filter(|_| self.verify) {
            // Refuses what cannot be verified before anything is written.
            let onnxruntime = self.onnxruntime.as_deref();
            let (formats, config) = spec.foresee();
            let model = "the model, which can be exported without --verify,";
            prepare(model, options, &formats, config.as_ref(), self.tolerance, onnxruntime)?;
        }
        let summary = export(&spec, &console)?;
        summary.warnings().iter().for_each(|it| warn(it));
        if !self.printing.quiet && !self.printing.json() {
            print(&table(&summary).to_string()).context(LOST)?;
        }
        // A swappable model is compared with the checkpoint, then with each adapter in turn.
        let sets: Vec<&[AdapterSource]> = match adapter_as {
            AdapterAs::Swappable => [&[][..]].into_iter().chain(adapters.chunks(1)).collect(),
            AdapterAs::Inline | AdapterAs::Merge => vec![&adapters],
        };
        let checked = sets.iter().filter(|_| self.verify);
        let checked = checked.map(|adapters| self.check(&summary, adapters, &console));
        // The summary is printed whatever the verification says.
        let outcome = checked.collect::<Result<Vec<Report>>>();
        let reports = outcome.as_deref().unwrap_or_default();
        if self.printing.json() {
            let (verification, rest) = (reports.first(), reports.get(1..).unwrap_or_default());
            let outcome = Outcome { summary, verification, adapter_verifications: rest };
            print_json(&outcome).context(LOST)?;
        } else if !self.printing.quiet {
            reports.iter().try_for_each(|report| print(&report.to_string()))?;
        }
        outcome?.iter().try_for_each(|report| exit_status(report, "; the files are kept"))
    }

    /// Verifies the models that were written, with these adapters.
    fn check(
        &self,
        summary: &Summary,
        adapters: &[AdapterSource],
        console: &Console,
    ) -> Result<Report> {
        let models = summary.model.iter().chain(&summary.stages).map(|it| it.path.clone());
        let request = VerifyRequest {
            models: models.collect(),
            checkpoint: summary.source.clone(),
            adapters: adapters.to_vec(),
            adapter_layout: self.layout.order(),
            ignored: self.ignored.names(),
            tolerance: self.tolerance,
            onnxruntime: self.onnxruntime.clone(),
            ..VerifyRequest::default()
        };
        verify(&request, console).context("the model is written, and could not be verified")
    }

    fn source(&self) -> Result<Source> {
        let Some(path) = &self.checkpoint else {
            let weights = self.weights.clone().expect("clap requires one of the two");
            return Ok(Source::Staged(weights));
        };
        let Self { download_dir: folder, offline, headers_only, .. } = self;
        let for_hub = match folder {
            _ if *headers_only => Some("--headers-only"),
            folder => folder.as_ref().map(|_| "--download-dir"),
        };
        let place = Place { path, option: "--checkpoint", for_hub, offline: *offline };
        let is_target = |it: &RepoPath| folder.as_deref() == Some(Path::new(&it.repository));
        let Some(name) = place.on_hub(is_target)? else {
            let text = path.to_str().unwrap_or_default();
            if RELEASED.contains(&text) && !path.exists() && similar_dir(path).is_none() {
                return Err(Error::new(format!(
                    "there is no folder `{text}`; the released model is `openai/{text}` on the hub"
                ))
                .with_remedy(Setting::Checkpoint, format!("openai/{text}"))
                .into());
            }
            return Ok(Source::Checkpoint(path.clone()));
        };
        let (folder, offline, headers_only) = (folder.clone(), *offline, *headers_only);
        Ok(Source::Hub(HubSource { name, folder, offline, headers_only }))
    }

    /// The adapters of a request that is complete but for them.
    fn adapters(&self, request: &Request) -> Result<Vec<RequestedAdapter>> {
        let Self { offline, .. } = *self;
        let requested = |source: &AdapterSource| {
            let place = Place { path: &source.path, option: "--adapter", for_hub: None, offline };
            let Some(name) = place.on_hub(|_| false)? else {
                return Ok(RequestedAdapter { source: source.clone(), hub: None });
            };
            let root = request.download_folder(&name);
            let source = AdapterSource { path: name.folder_in(&root), ..source.clone() };
            let hub = HubSource { name, folder: Some(root), offline, headers_only: false };
            Ok(RequestedAdapter { source, hub: Some(hub) })
        };
        self.adapters.iter().map(requested).collect()
    }

    fn request(&self) -> Result<Request> {
        let mut request = Request::new(self.source()?);
        request.output.clone_from(&self.output);
        request.save_weights.clone_from(&self.save_weights);
        request.preset = self.preset;
        request.adapters = self.adapters(&request)?;
        request.adapter_as = self.adapter_as.unwrap_or_default();
        request.adapter_modules.clone_from(&self.adapter_modules);
        request.adapter_layout = self.layout.order();
        request.ignored = self.ignored.names();
        self.layers.add_to(&mut request)?;
        request.experts = self.experts;
        request.dense = self.dense;
        request.accept_rounding = self.accept_rounding;
        request.target = self.target;
        request.provider = self.ep;
        request.compute = self.compute;
        request.keep_activations = self.keep_activations;
        request.functions = self.functions;
        request.batch = self.batch_size.filter(|_| !self.dynamic_b);
        request.length = self.seq_len.filter(|_| !self.dynamic_seq);
        request.kv_cache = self.kv_cache;
        request.sliding_cache = self.sliding_cache;
        request.last_logits = self.last_logits;
        request.external_data = self.external_data.unwrap_or_default();
        request.max_shard_size = self.max_shard_size.map(|size| size.as_u64());
        request.genai = self.genai;
        request.max_length = self.max_length;
        request.speculative = self.speculative;
        request.transformers_js = self.transformers_js;
        Ok(request)
    }
}

/// The summary, with what to type next.
fn table(summary: &Summary) -> Table {
    let mut table = summary.table(|settings| pass(&options(settings.iter().copied())));
    let Summary { hub, model, stages, weights, .. } = summary;
    if let Some(HubSummary { bytes_awaited: bytes @ 1.., .. }) = hub {
        let bytes = display::size(*bytes);
        let next = "the same command without --headers-only fetches";
        table.row("next", format!("{next} {bytes}, and the model runs"));
    } else if let (None, [], Some(staged)) =
        (model, &stages[..], weights.written.iter().chain(&weights.reused).next())
    {
        let staged = shell_quote(&staged.display().to_string());
        table.row("next", format!("gpt-oss-export --weights {staged} --output model.onnx"));
    }
    table
}

fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| "expected a size such as 500MB or 2GiB")
}
