//! Values of options, with their help, and the options of several commands.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};
use gpt_oss_export::evaluate::ExportFormats;
use gpt_oss_export::export::{
    AdapterAs, AdapterSource, Bits, DType, ExternalData, FactorOrder, IgnoredNames, MatrixFormat,
    ModuleGroup, Preset, Provider, RepoPath, SlidingCache, Target,
};
use gpt_oss_export::verify::TextSource;
use serde::Serialize;

use super::console::{print, print_json};

/// Options that accept unknown names.
#[derive(Args, Debug)]
pub struct Ignored {
    /// Accept an unknown key of a config, or those that match a pattern
    #[arg(long, value_name = "KEY", action = ArgAction::Append)]
    ignore_config_key: Vec<String>,
    /// Accept an unknown tensor, or those that match a pattern
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    ignore_tensor: Vec<String>,
}

impl Ignored {
    pub fn names(&self) -> IgnoredNames {
        let Self { ignore_config_key, ignore_tensor } = self;
        IgnoredNames {
            config_keys: ignore_config_key.clone(),
            tensors: ignore_tensor.clone(),
            ..IgnoredNames::default()
        }
    }
}

/// Options that accept what an export refuses.
#[derive(Args, Debug)]
pub struct Accepted {
    #[command(flatten)]
    names: Ignored,
    /// Accept zeros for norms, embedding, lm_head or MXFP4 scales
    ///
    /// A model with such zeros cannot work as trained: they are usually left by an interrupted save or
    /// download.
    #[arg(long)]
    ignore_zeros: bool,
}

impl Accepted {
    pub fn names(&self) -> IgnoredNames {
        IgnoredNames { zeros: self.ignore_zeros, ..self.names.names() }
    }
}

/// Whether a command prints JSON.
#[derive(Args, Debug)]
pub struct Json {
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What a command prints.
#[derive(Args, Debug)]
pub struct Printing {
    #[command(flatten)]
    json: Json,
    /// Print errors and warnings alone
    #[arg(long, conflicts_with = "json")]
    pub quiet: bool,
}

impl Printing {
    pub fn json(&self) -> bool {
        self.json.json
    }

    /// Prints what a command found or did.
    pub fn show(&self, result: &(impl Serialize + Display)) -> anyhow::Result<()> {
        match self {
            Self { quiet: true, .. } => Ok(()),
            _ if self.json() => print_json(result),
            _ => print(&result.to_string()),
        }
    }
}

/// What the files of adapters may not tell.
#[derive(Args, Debug)]
pub struct AdapterLayout {
    /// How --adapter stores the factors of experts, if its files do not tell
    #[arg(long, value_name = "LAYOUT", value_parser = one_of(ADAPTER_LAYOUTS), requires = "adapters")]
    adapter_layout: Option<FactorOrder>,
}

impl AdapterLayout {
    pub fn order(&self) -> Option<FactorOrder> {
        self.adapter_layout
    }
}

/// Formats of an export: of experts, and of dense matrices after a plus.
pub fn export_formats(word: &str) -> Result<ExportFormats, String> {
    let word = word.trim();
    let (experts, dense) =
        word.split_once('+').map_or((word, None), |(it, dense)| (it, Some(dense)));
    let find = |words: &[Word<MatrixFormat>], word: &str| {
        let known = || words.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
        let found = words.iter().find(|(name, ..)| *name == word);
        found
            .map(|(_, format, _)| *format)
            .ok_or_else(|| format!("`{word}` is none of {}", known()))
    };
    Ok(ExportFormats {
        name: word.to_owned(),
        experts: Some(find(&EXPERTS_FORMATS, experts)?),
        dense: dense.map(|it| find(&DENSE_FORMATS, it)).transpose()?,
    })
}

/// A text for a model to predict.
#[derive(Args, Debug)]
pub struct TextInput {
    /// Text to predict instead of random tokens, in windows of --tokens
    ///
    /// UTF-8; a .jsonl file has an object with a text in each line. tokenizer.json splits it into
    /// tokens. Windows do not overlap, and each predicts all but its first token; a last incomplete
    /// one is left out.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Field with the text in each line of a .jsonl file [default: text]
    #[arg(long, value_name = "NAME", requires = "text")]
    text_field: Option<String>,
    /// Folder with tokenizer.json [default: the checkpoint's]
    #[arg(long, value_name = "DIR", requires = "text")]
    tokenizer: Option<PathBuf>,
}

impl TextInput {
    pub fn source(self) -> Option<TextSource> {
        let Self { text, text_field: field, tokenizer } = self;
        text.map(|file| TextSource { file, field, tokenizer })
    }
}

/// A word, its value and its help.
pub type Word<T> = (&'static str, T, &'static str);

const INT8: MatrixFormat = MatrixFormat::Int(Bits::Eight);
const INT4: MatrixFormat = MatrixFormat::Int(Bits::Four);
const INT4X2: MatrixFormat = MatrixFormat::Int4x2;
const BF16: MatrixFormat = MatrixFormat::Float(DType::BF16);
const F16: MatrixFormat = MatrixFormat::Float(DType::F16);
const F32: MatrixFormat = MatrixFormat::Float(DType::F32);

pub const PRESETS: [Word<Preset>; 6] = [
    (
        "onnxruntime",
        Preset::Onnxruntime,
        "ONNX Runtime on a CPU; one without AVX-512 needs --experts int4x2 to be fast",
    ),
    ("genai", Preset::Genai, "onnxruntime-genai on a CPU"),
    ("openvino", Preset::Openvino, "OpenVINO, or any runtime with standard operators"),
    (
        "transformers-js",
        Preset::TransformersJs,
        "transformers.js in a browser with WebGPU; experts become int4, which rounds",
    ),
    ("cuda", Preset::Cuda, "ONNX Runtime on NVIDIA GPUs"),
    ("webgpu", Preset::Webgpu, "ONNX Runtime with WebGPU; experts become int4, which rounds"),
];

pub const EXPERTS_FORMATS: [Word<MatrixFormat>; 8] = [
    ("mxfp4", MatrixFormat::Mxfp4, "4-bit floats in blocks of 32 with a scale, as released"),
    (
        "nvfp4",
        MatrixFormat::Nvfp4,
        "The same codes with scales for blocks of 16, as CUDA reads them",
    ),
    (
        "int4x2",
        INT4X2,
        "MXFP4 as two 4-bit integers each: exact with --target ort on CPUs without AVX-512, where mxfp4 is slow",
    ),
    (
        "int8",
        INT8,
        "8-bit integers, block size 32: exact for MXFP4; with --target ort activations are rounded",
    ),
    ("int4", INT4, "4-bit integers, block size 32: rounds"),
    ("bf16", BF16, "BF16, row-major [out, in]"),
    ("f16", F16, "F16, row-major [out, in]"),
    ("f32", F32, "F32, row-major [out, in]"),
];

pub const DENSE_FORMATS: [Word<MatrixFormat>; 6] = [
    (
        "int8x2",
        MatrixFormat::Int8x2,
        "Two 8-bit digits and a scale for each row: half of f32's memory, rounds little",
    ),
    ("int8", INT8, "8-bit integers, block size 32: rounds"),
    ("int4", INT4, "4-bit integers, block size 32, with int8 for lm_head: rounds"),
    ("bf16", BF16, "BF16"),
    ("f16", F16, "F16"),
    ("f32", F32, "F32"),
];

pub const COMPUTE_DTYPES: [Word<DType>; 3] =
    [("f32", DType::F32, ""), ("f16", DType::F16, ""), ("bf16", DType::BF16, "")];

pub const TARGETS: [Word<Target>; 2] = [
    ("onnx", Target::Onnx, "Standard operators only, for every runtime"),
    ("ort", Target::Ort, "ONNX Runtime's operators too, fast on a CPU"),
];

pub const SLIDING_CACHES: [Word<SlidingCache>; 2] = [
    ("window", SlidingCache::Window, "The last tokens: the window and 15 more"),
    ("full", SlidingCache::Full, "All tokens, so that a text can be cut anywhere"),
];

pub const PROVIDERS: [Word<Provider>; 3] = [
    ("cpu", Provider::Cpu, "CPUs"),
    ("cuda", Provider::Cuda, "NVIDIA GPUs (not run in this project's tests)"),
    ("webgpu", Provider::WebGpu, "GPUs, natively or in a browser"),
];

const ADAPTER_LAYOUTS: [Word<FactorOrder>; 2] = [
    ("plain", FactorOrder::Plain, "lora_A has the inputs of a matrix, lora_B its outputs"),
    ("swapped", FactorOrder::Swapped, "The other way round, as some versions of PEFT have it"),
];

pub const ADAPTER_AS: [Word<AdapterAs>; 3] = [
    ("inline", AdapterAs::Inline, "Computed in the graph, from the stored weights: exact"),
    (
        "swappable",
        AdapterAs::Swappable,
        "Files NAME.onnx_adapter beside the model, which runtimes load and switch",
    ),
    (
        "merge",
        AdapterAs::Merge,
        "Added to the weights, which become f32 or the formats of --experts and --dense: rounds",
    ),
];

pub const ADAPTER_MODULES: [Word<ModuleGroup>; 6] = [
    (ModuleGroup::Attention.name(), ModuleGroup::Attention, "q, k, v and o"),
    (ModuleGroup::Router.name(), ModuleGroup::Router, ""),
    (ModuleGroup::Experts.name(), ModuleGroup::Experts, "gate_up and down"),
    (ModuleGroup::LmHead.name(), ModuleGroup::LmHead, ""),
    (ModuleGroup::Embedding.name(), ModuleGroup::Embedding, ""),
    (ModuleGroup::All.name(), ModuleGroup::All, "Whatever adapters may change in the checkpoint"),
];

pub const EXTERNAL_DATA: [Word<ExternalData>; 3] = [
    ("auto", ExternalData::Auto, "In place if ONNX allows it, otherwise from a copy"),
    ("in-place", ExternalData::InPlace, "From the files of --checkpoint or --weights, or fail"),
    ("copy", ExternalData::Copy, "From a weights file beside the model"),
];

/// Parses one of some words.
pub fn one_of<T, const N: usize>(words: [Word<T>; N]) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    let value = |(word, _, help): &Word<T>| match *help {
        "" => PossibleValue::new(*word),
        help => PossibleValue::new(*word).help(help),
    };
    PossibleValuesParser::new(words.each_ref().map(value)).map(move |given| {
        let same = words.iter().find(|(word, ..)| *word == given);
        same.expect("clap accepts no other").1.clone()
    })
}

/// Parses a whole number.
pub fn number<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            let end = if *last == u64::MAX { String::new() } else { format!(" to {last}") };
            format!("expected a whole number from {first}{end}")
        })
    }
}

/// Parses a finite number from 0.
pub fn from_zero(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// A parser of adapters: a path that exists or a repository, perhaps with a name before the first `=`,
/// and with a weight behind the last.
pub fn adapter() -> impl TypedValueParser<Value = AdapterSource> {
    PathBufValueParser::new().try_map(|path| {
        let text = path.to_str().filter(|_| !path.exists()).unwrap_or_default();
        let with_weight = |(name, text): (Option<&str>, &str)| {
            let (path, weight) = text.rsplit_once('=')?;
            Some(source(name, path, weight.parse().ok()?))
        };
        let named = text.split_once('=').filter(|(name, _)| !name.contains(['/', '\\']));
        let named = named.map(|(name, rest)| (Some(name), rest));
        let weighted = with_weight((None, text));
        let with_name = named.map(|(name, rest)| source(name, rest, 1.0));
        let readings = [weighted.clone(), with_name, named.and_then(with_weight)];
        let readings: Vec<AdapterSource> = readings.into_iter().flatten().collect();
        let there: Vec<_> = readings.iter().filter(|it| it.path.exists()).collect();
        let on_hub = readings.iter().find(|it| it.path.to_str().is_some_and(is_on_hub)).cloned();
        let problem = wrong_weight(text).filter(|_| there.is_empty() && on_hub.is_none());
        if let Some(problem) = problem {
            return Err(problem);
        }
        match &there[..] {
            // What is not there is said by whoever opens it.
            [] => {
                let whole = || AdapterSource { path, ..AdapterSource::default() };
                Ok(on_hub.or(weighted).unwrap_or_else(whole))
            }
            [one] => Ok((*one).clone()),
            [one, other, ..] => Err(format!(
                "there are both `{}` and `{}`: put ./ before the one that is meant",
                one.path.display(),
                other.path.display()
            )),
        }
    })
}

/// Whether a text without a name and a weight is a repository's.
fn is_on_hub(text: &str) -> bool {
    let name = text.strip_prefix("hf:");
    let named = name.map_or_else(|| RepoPath::parse(text), RepoPath::parse_certain);
    let named = named.or_else(|| RepoPath::from_address(text));
    named.is_some() && !text.contains('=')
}

/// What is wrong with the weight behind a path that exists.
fn wrong_weight(text: &str) -> Option<String> {
    let (path, weight) = text.rsplit_once('=')?;
    let is_there = |path: &str| Path::new(path).exists();
    let is_adapter = is_there(path) || path.split_once('=').is_some_and(|(_, it)| is_there(it));
    let is_wrong = is_adapter && !is_there(weight) && weight.parse::<f64>().is_err();
    let meant = weight.replace(',', ".").parse::<f64>().unwrap_or(0.7);
    is_wrong.then(|| format!("the weight `{weight}` is not a number: write {path}={meant}"))
}

fn source(name: Option<&str>, path: &str, weight: f64) -> AdapterSource {
    AdapterSource { name: name.map(str::to_owned), path: path.into(), weight }
}

/// Whether a word or path is the name of an ONNX file.
pub fn is_model(path: impl AsRef<Path>) -> bool {
    path.as_ref().extension().is_some_and(|extension| extension == "onnx")
}

/// A parser of file names with an extension, which need not be UTF-8.
pub fn with_extension(extension: &'static str) -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(move |path| {
        let is_file = path.extension().is_some_and(|found| found == extension);
        // `a.onnx/` has the extension too, and is a folder.
        let fits = is_file && path.as_os_str().as_encoded_bytes().ends_with(extension.as_bytes());
        let expected = || format!("expected a file name that ends in .{extension}");
        fits.then_some(path).ok_or_else(expected)
    })
}
