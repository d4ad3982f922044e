//! What to type in place of words and options that the command line does not take.

use std::path::Path;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use gpt_oss_export::display::shell_quote;

/// Words of other tools, and the values that they may mean: the first that an option has.
const SYNONYMS: [(&str, &str); 12] = [
    ("cpu ort onnxruntime-cpu", "onnxruntime ort"),
    ("onnxruntime", "ort"),
    ("onnx", "openvino onnx"),
    ("onnxruntime-genai oga gptoss", "genai"),
    ("gpu nvidia", "cuda"),
    ("web browser js transformers.js", "transformers-js webgpu"),
    ("q4 4 4bit uint4 w4 q4f16", "int4"),
    ("q8 8 8bit uint8 w8", "int8"),
    ("fp4 f4 e2m1", "mxfp4"),
    ("fp16 float16 half", "f16"),
    ("bfloat16", "bf16"),
    ("fp32 float32 float", "f32"),
];

/// Options of other commands, by the command that does not have them (`""` is an export), and
/// what to type; `PATH` stands for the value.
const OTHER_OPTIONS: [(&str, &str, &str); 4] = [
    (
        "inspect",
        "--checkpoint --weights --model --output",
        "the path needs no option: inspect PATH",
    ),
    ("verify", "--model --output", "the model needs no option: verify PATH --checkpoint DIR"),
    ("verify", "--weights", "a staged weights file is a checkpoint here: --checkpoint PATH"),
    ("", "--model --input --model-path -m -i", "the source is a checkpoint: --checkpoint PATH"),
];

/// The same error with a tip, if there is one for these arguments of the process.
pub fn with_tip(mut error: clap::Error, cli: &Command, arguments: &[String]) -> clap::Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    if error.kind() == ErrorKind::InvalidValue {
        let values = error.get(ContextKind::ValidValue);
        if let (Some(word), Some(ContextValue::Strings(values))) =
            (context(ContextKind::InvalidValue), values)
            && let Some(meant) = synonym(&word, values)
        {
            error.insert(ContextKind::SuggestedValue, ContextValue::String(meant));
        }
        return error;
    }
    let is_similar = error.get(ContextKind::SuggestedSubcommand).is_some();
    let follows_option = error.get(ContextKind::PriorArg).is_some();
    let tip = if let Some(word) = context(ContextKind::InvalidSubcommand) {
        if cli.find_subcommand(&word).is_some() {
            Some(format!("the command `{word}` comes first, and has options of its own"))
        } else if is_similar && !Path::new(&word).exists() {
            None
        } else {
            Some(stray_word(&word, arguments, follows_option))
        }
    } else if error.kind() == ErrorKind::UnknownArgument {
        context(ContextKind::InvalidArg).and_then(|it| unknown_argument(&it, arguments))
    } else {
        None
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Which of these values a word of another tool means.
fn synonym(word: &str, values: &[String]) -> Option<String> {
    let word = word.to_lowercase();
    let known = SYNONYMS.iter().filter(|(words, _)| words.split(' ').any(|it| it == word));
    let mut meant = known.flat_map(|(_, meant)| meant.split(' '));
    let listed = meant.find(|it| values.iter().any(|value| value == it));
    listed.or_else(|| values.iter().map(String::as_str).find(|it| *it == word)).map(str::to_owned)
}

/// The tip against a word that is no option's.
fn stray_word(word: &str, arguments: &[String], follows_option: bool) -> String {
    let rest = arguments.iter().skip_while(|it| *it != word).skip(1);
    let next = rest.clone().next().filter(|it| !it.starts_with('-'));
    let has_source = has(arguments, "--checkpoint") || has(arguments, "--weights");
    let has_output = has(arguments, "--output") || has(arguments, "-o");
    let quoted = shell_quote(word);
    if is_model(word) && has_source && !has_output {
        format!("the model is the value of an option: --output {quoted}")
    } else if follows_option {
        format!("leave out `{word}`, or put quotes around a path with spaces")
    } else if is_model(word) {
        format!(
            "to describe a model, pass inspect {quoted}; to verify it, verify {quoted} --checkpoint DIR"
        )
    } else if word == "export" || has_source || next.is_some_and(|it| !is_model(it)) {
        format!("an export needs no command: leave out `{word}`")
    } else {
        let output = next.map_or("FILE.onnx".to_owned(), |it| shell_quote(it));
        format!("to export a checkpoint, pass --checkpoint {quoted} --output {output}")
    }
}

/// The tip against an option or a word that a command does not have.
fn unknown_argument(unknown: &str, arguments: &[String]) -> Option<String> {
    let command = arguments.first().filter(|it| ["inspect", "verify"].contains(&it.as_str()));
    let command = command.map_or("", String::as_str);
    if unknown.starts_with('-') {
        let mut all = OTHER_OPTIONS.iter();
        let is_it = |options: &str| options.split(' ').any(|it| it == unknown);
        let (.., tip) = all.find(|(of, options, _)| *of == command && is_it(options))?;
        let at = arguments.iter().position(|it| it.split('=').next() == Some(unknown))?;
        let joined = arguments[at].split_once('=').map(|(_, value)| value);
        let value = joined.or(arguments.get(at + 1).map(String::as_str)).map(shell_quote);
        return Some(tip.replace("PATH", &value.unwrap_or_else(|| "PATH".to_owned())));
    }
    let mut words = arguments.iter().skip(1).filter(|it| !it.starts_with('-'));
    match command {
        "verify" if !has(arguments, "--checkpoint") => {
            let [one, other] = [words.next()?, words.next()?];
            let [model, source] = if is_model(one) { [one, other] } else { [other, one] };
            let [model, source] = [model, source].map(|it| shell_quote(it));
            Some(format!("the checkpoint is an option: verify {model} --checkpoint {source}"))
        }
        "" => None,
        command => Some(format!("`{command}` takes one path: put quotes around one with spaces")),
    }
}

fn has(arguments: &[String], option: &str) -> bool {
    arguments.iter().any(|it| it.split('=').next() == Some(option))
}

fn is_model(word: &str) -> bool {
    Path::new(word).extension().is_some_and(|extension| extension == "onnx")
}
