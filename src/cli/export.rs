//! What an export is asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::{ArgAction, ArgGroup, Args, ValueEnum};
use gpt_oss_export::checkpoint::{self, Leniency};
use gpt_oss_export::export::{
    ExternalData, Formats, FromHub, Genai, MatrixFormat, Origin, Request, Summary, export,
};
use gpt_oss_export::hub::RepoPath;
use gpt_oss_export::model::{GraphOptions, Provider, Style, Target};
use gpt_oss_export::tensor::DType;
use gpt_oss_export::verify::Report;
use serde::Serialize;

use super::console::{Console, print, print_json};
use super::formats::{self, Dense};
use super::verify::{self, CHECKS};

/// Headings of the help.
const SOURCE: &str = "From where";
const DESTINATION: &str = "To where";
const NUMBERS: &str = "Formats of numbers";
const GRAPH: &str = "The graph";

/// From where, to where, and how.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("origin").required(true)))]
#[command(group(ArgGroup::new("formats").multiple(true).args(["experts", "dense"])))]
pub struct Export {
    /// Folder of the checkpoint: config.json and SafeTensors, in OpenAI's layout or one of Hugging Face's; or a repository on the hub: owner/name, owner/name/original, owner/name@revision, owner/name@revision/folder
    #[arg(help_heading = SOURCE, long, value_name = "DIR|REPO", group = "origin")]
    checkpoint: Option<PathBuf>,
    /// Where files from the hub go (a folder beside the output, owner--name, otherwise)
    #[arg(help_heading = SOURCE, long, value_name = "DIR", requires = "checkpoint")]
    download_dir: Option<PathBuf>,
    /// Ask the hub for nothing: use what was downloaded before, or is in Hugging Face's cache
    #[arg(help_heading = SOURCE, long, requires = "checkpoint")]
    offline: bool,
    /// Fetch headers instead of weights from the hub, and write the graph alone; it runs once the weights are where it says
    #[arg(help_heading = SOURCE, long, requires = "checkpoint", conflicts_with_all = ["offline", "save_weights", "experts", "dense"])]
    headers_only: bool,
    /// Weights that --save-weights has staged; no checkpoint is needed
    #[arg(help_heading = SOURCE, long, value_name = "FILE", group = "origin")]
    weights: Option<PathBuf>,
    /// The model to write
    #[arg(help_heading = DESTINATION, short, long, value_name = "FILE.onnx", required_unless_present = "skip_onnx", value_parser = |path: &str| with_extension(path, "onnx"))]
    output: Option<PathBuf>,
    /// Write the mapped weights into one file, from which models can be made later; the model's own data when it is in the output's folder or below
    #[arg(help_heading = DESTINATION, long, value_name = "FILE.safetensors", value_parser = |path: &str| with_extension(path, "safetensors"))]
    save_weights: Option<PathBuf>,
    /// Stage weights only, write no model
    #[arg(help_heading = DESTINATION, long, requires = "save_weights", conflicts_with = "output")]
    skip_onnx: bool,
    /// Put the experts' numbers into a format; without it they stay as they are. Integers round, the others convert bit for bit or not at all
    #[arg(help_heading = NUMBERS, long, value_name = "FORMAT", value_parser = formats::experts())]
    experts: Option<MatrixFormat>,
    /// The same for the matrices of attention and of the logits; routers and the embedding stay as they are
    #[arg(help_heading = NUMBERS, long, value_name = "FORMAT", value_parser = formats::dense())]
    dense: Option<Dense>,
    /// Let --experts and --dense round numbers that the format does not have
    #[arg(help_heading = NUMBERS, long, requires = "formats")]
    accept_rounding: bool,
    /// What attention and matrix products compute in, and the cache holds; the residual stream, norms and products of routers are f32 in any case
    /// (f32 for --ep cpu, f16 for GPUs)
    #[arg(help_heading = NUMBERS, long, value_name = "DTYPE", value_parser = formats::compute())]
    compute: Option<DType>,
    /// Multiply integers with activations as they are: onnxruntime's faster kernels on a CPU round them to 8 bits
    #[arg(help_heading = NUMBERS, long)]
    keep_activations: bool,
    /// The execution provider that --target ort's operators are for
    #[arg(help_heading = GRAPH, long, value_name = "PROVIDER", value_parser = formats::provider(), default_value = "cpu")]
    ep: Provider,
    /// Where the model reads its weights
    #[arg(help_heading = DESTINATION, long, value_name = "WHERE", value_enum, default_value_t = Where::Auto)]
    external_data: Where,
    /// Whose operators the graph is made of
    #[arg(help_heading = GRAPH, long, value_name = "TARGET", value_enum, default_value_t = TargetName::Onnx)]
    target: TargetName,
    /// Take earlier keys and values and give them with this step's (--target ort always does)
    #[arg(help_heading = GRAPH, long)]
    kv_cache: bool,
    /// Give logits for the last token of each row in a step alone, as generation needs
    #[arg(help_heading = GRAPH, long)]
    last_logits: bool,
    /// Make the output's folder one that onnxruntime-genai opens: genai_config.json and the tokenizer's files; implies --kv-cache and --last-logits
    #[arg(help_heading = DESTINATION, long, conflicts_with = "skip_onnx")]
    genai: bool,
    /// Longest text, prompt included, that onnxruntime-genai makes room for (the default keeps its cache below 1 GiB)
    #[arg(help_heading = DESTINATION, long, value_name = "N", requires = "genai", value_parser = clap::value_parser!(u64).range(1..))]
    max_length: Option<u64>,
    /// Name the model's data as transformers.js looks for it, in files of less than 2 GB, and put config.json and the tokenizer above the folder `onnx` that the model goes into; implies --kv-cache and --last-logits
    #[arg(help_heading = DESTINATION, long, conflicts_with_all = ["skip_onnx", "save_weights", "genai", "headers_only"])]
    transformers_js: bool,
    /// Copy weights beside the model, into several files of at most this size, such as 2GB or 500MiB
    #[arg(help_heading = DESTINATION, long, value_name = "SIZE", conflicts_with_all = ["skip_onnx", "save_weights", "headers_only"])]
    max_shard_size: Option<ByteSize>,
    /// Use model-local functions, shared by all layers, instead of a flat graph
    #[arg(help_heading = GRAPH, long)]
    functions: bool,
    /// Export the first N layers only
    #[arg(help_heading = SOURCE, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// Fix the number of rows in a batch (symbol B otherwise)
    #[arg(help_heading = GRAPH, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch_size: Option<u64>,
    /// Fix the number of tokens in a row (symbol T otherwise)
    #[arg(help_heading = GRAPH, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    seq_len: Option<u64>,
    /// Keep the batch axis symbolic, whatever --batch-size says (for scripts that always give sizes)
    #[arg(help_heading = GRAPH, long)]
    dynamic_b: bool,
    /// Keep the sequence axis symbolic, whatever --seq-len says
    #[arg(help_heading = GRAPH, long)]
    dynamic_seq: bool,
    /// Accept this key in config.json although its meaning is unknown
    #[arg(help_heading = SOURCE, long, conflicts_with = "weights", value_name = "KEY", action = ArgAction::Append)]
    ignore_config_key: Vec<String>,
    /// Accept this tensor in the checkpoint although the layout does not have it, or those that fit a pattern with * and ?
    #[arg(help_heading = SOURCE, long, conflicts_with = "weights", value_name = "NAME", action = ArgAction::Append)]
    ignore_tensor: Vec<String>,
    /// Then run the model in onnxruntime and compare its logits with the checkpoint's own, as `verify` does
    #[arg(help_heading = CHECKS, long, conflicts_with_all = ["skip_onnx", "headers_only"])]
    verify: bool,
    #[command(flatten)]
    check: verify::Check,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
}

/// What is true although nobody hears the rest.
const DONE: &str = "the export is done, but its summary is lost";

/// The summary of an export, and what came of verifying it.
#[derive(Serialize)]
struct Everything<'r> {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<&'r Report>,
}

/// Which operators a graph is made of.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TargetName {
    /// Standard ones alone: for every runtime
    Onnx,
    /// ONNX Runtime's own besides: fast on a CPU
    Ort,
}

/// Where a model reads its weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Where {
    /// Where they are (checkpoint or staged file) if that is the model's folder or below, else in a copy
    Auto,
    /// Where they are; fails if ONNX could not read them there
    InPlace,
    /// In a file beside the model
    Copy,
}

impl Export {
    /// Exports, and says what was done.
    pub fn run(self) -> Result<()> {
        let (json, quiet) = (self.json, self.quiet);
        let check = self.verify.then(|| self.check.clone());
        let console = Console::new(quiet)?;
        let request = self.request()?;
        if let Some(check) = &check {
            check.ready(&request)?;
        }
        let mut outcome = export(&request, &console).map_err(anyhow::Error::from);
        if let Origin::Hub(FromHub { name, folder: None, .. }) = &request.origin
            && let Some((owner, name)) = name.repository.split_once('/')
            && Path::new(owner).is_dir()
        {
            let alike = checkpoint::similar_dir(&Path::new(owner).join(name));
            let alike = alike.map(|path| format!(" (did you mean `{}`?)", path.display()));
            let alike = alike.unwrap_or_default();
            let beside =
                format!("the folder `{owner}` has no `{name}`{alike}, so the hub was asked");
            outcome = outcome.context(beside);
        }
        let summary = outcome?;
        if !quiet && !json {
            print(&summary.to_string()).context(DONE)?;
        }
        // What was exported is said, whatever comes of verifying it.
        let outcome = check.map(|check| check.exported(&request, &summary, &console)).transpose();
        let verification = outcome.as_ref().ok().and_then(Option::as_ref);
        match verification {
            _ if json => {
                print_json(&Everything { summary, verification }).context(DONE)?;
            }
            Some(report) if !quiet => print(&report.to_string())?,
            _ => {}
        }
        outcome?.map_or(Ok(()), |report| verify::judge(&report, "; the files stay as they are"))
    }

    /// A path that exists is a path, whatever else it could mean, unless it is where
    /// the repository of that name is to go.
    fn origin(&self) -> Result<Origin> {
        let Some(path) = &self.checkpoint else {
            return Ok(Origin::Weights(
                self.weights.clone().expect("clap requires one of the two"),
            ));
        };
        let is_target =
            |name: &RepoPath| self.download_dir.as_deref() == Some(Path::new(&name.repository));
        let name = path.to_str().and_then(RepoPath::parse);
        // So is a link that leads nowhere.
        let is_there = path.symlink_metadata().is_ok();
        match name.filter(|name| !is_there || is_target(name)) {
            Some(name) => Ok(Origin::Hub(FromHub {
                name,
                folder: self.download_dir.clone(),
                offline: self.offline,
                headers_only: self.headers_only,
            })),
            None if self.download_dir.is_some() || self.headers_only => bail!(
                "--download-dir and --headers-only are for repositories on the hub (owner/name), and `{}` is {}",
                path.display(),
                if path.exists() { "here" } else { "not the name of one" }
            ),
            None => Ok(Origin::Checkpoint(path.clone())),
        }
    }

    fn request(self) -> Result<Request> {
        Ok(Request {
            origin: self.origin()?,
            output: self.output.filter(|_| !self.skip_onnx),
            save_weights: self.save_weights,
            external_data: match self.external_data {
                Where::Auto => ExternalData::Auto,
                Where::InPlace => ExternalData::InPlace,
                Where::Copy => ExternalData::Copy,
            },
            layers: self.layers.map(|layers| layers as usize),
            leniency: Leniency { config_keys: self.ignore_config_key, tensors: self.ignore_tensor },
            formats: Formats {
                experts: self.experts,
                dense: self.dense.and_then(|Dense(format)| format),
                accept_rounding: self.accept_rounding,
            },
            graph: GraphOptions {
                target: match self.target {
                    TargetName::Onnx => Target::Onnx,
                    TargetName::Ort => Target::Ort,
                },
                provider: self.ep,
                compute: self.compute.unwrap_or_else(|| self.ep.default_compute()),
                keep_activations: self.keep_activations,
                style: if self.functions { Style::Functions } else { Style::Flat },
                batch: self.batch_size.filter(|_| !self.dynamic_b),
                length: self.seq_len.filter(|_| !self.dynamic_seq),
                kv_cache: self.kv_cache,
                last_logits: self.last_logits,
                ..GraphOptions::default()
            },
            genai: self.genai.then_some(Genai { max_length: self.max_length }),
            transformers_js: self.transformers_js,
            max_shard_size: self.max_shard_size.map(|size| size.as_u64()),
        })
    }
}

fn with_extension(path: &str, extension: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    match path.extension() {
        Some(found) if found == extension => Ok(path),
        _ => Err(format!("expected a file name that ends in .{extension}")),
    }
}
