//! What to type in place of words and options that the command line does not take.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use gpt_oss_export::display::shell_quote;

use super::values::is_model;

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

const VERIFY: &str = "--verify";

/// Options of other tools, by the command that does not have them (`""` is an export), and
/// what to type; `PATH` stands for the value.
const OTHER_OPTIONS: [(&str, &str, &str); 17] = [
    (
        "inspect",
        "--checkpoint --weights --model --output",
        "the path needs no option: inspect PATH",
    ),
    ("adapter", "--model", "the model is the value of an option: --for PATH"),
    (
        "adapter",
        "--checkpoint --weights",
        "the model says what its checkpoint is: leave out the option",
    ),
    ("inspect", "--verify", "to verify a model, pass verify FILE.onnx --checkpoint DIR"),
    ("verify", "--model --output", "the model needs no option: verify PATH --checkpoint DIR"),
    ("verify", "--weights", "a staged weights file is a checkpoint here: --checkpoint PATH"),
    ("verify", "--atol --rtol", "the largest error of a logit is --tolerance PATH"),
    (
        "",
        "--model --input --model-path --model-id --model-name --model-name-or-path -m -i",
        "the source is a checkpoint: --checkpoint PATH",
    ),
    (
        "",
        "--quantize --quantization --quant --bits --load-in-4bit --load-in-8bit -q",
        "matrices have formats: --experts FORMAT, and --dense FORMAT for attention and lm_head",
    ),
    (
        "",
        "--dtype --torch-dtype --precision --fp16 --bf16 --half",
        "weights keep their dtypes: --experts FORMAT and --dense FORMAT convert matrices, --compute DTYPE is that of activations",
    ),
    (
        "",
        "--device --execution-provider --provider --runtime --backend",
        "the runtime is a value of --for RUNTIME, the execution provider of --ep PROVIDER",
    ),
    (
        "",
        "--lora --lora-path --peft --adapter-path",
        "an adapter is the value of an option: --adapter PATH",
    ),
    (
        "",
        "--cache-dir --local-dir",
        "the folder for downloads is the value of an option: --download-dir PATH",
    ),
    ("", "--use-cache --use-past --with-past --past", "the cache is --kv-cache"),
    ("", "--atol --rtol", "the largest error of a logit is --tolerance PATH, with --verify"),
    (
        "",
        "--opset --opset-version --ir-version",
        "the operators need one opset, which the summary tells: leave out the option",
    ),
    (
        "",
        "--task --format --framework --library --trust-remote-code",
        "an export has one task and one format, and runs no code of a checkpoint: leave out the option",
    ),
];

/// Commands of other tools, and what to type; words in braces stand for the
/// arguments that follow, or for what is missing.
const OTHER_COMMANDS: [(&str, &str); 8] = [
    ("run chat prompt complete infer", "the command is `generate`: generate {model} --prompt TEXT"),
    ("show info ls list describe print cat view", "the command is `inspect`: inspect {path}"),
    (
        "check test validate compare diff",
        "the command is `verify`: verify {model} --checkpoint {source}",
    ),
    (
        "eval perplexity ppl bench benchmark",
        "the command is `evaluate`: evaluate {model} --checkpoint {source} --text FILE",
    ),
    (
        "lora loras adapters peft",
        "the command is `adapter`: adapter {source} --for {model} --output NAME.onnx_adapter",
    ),
    (
        "merge fuse",
        "merging is an option of an export: --checkpoint DIR --adapter {source} --adapter-as merge",
    ),
    (
        "quantize quantise quant",
        "formats are options of an export: --experts FORMAT, and --dense FORMAT for attention and lm_head",
    ),
    ("export convert build", "an export needs no command: leave out `{word}`"),
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
    let tip = if let Some(word) = context(ContextKind::InvalidSubcommand) {
        no_command(&word, &error, cli, arguments)
    } else {
        match (error.kind(), context(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(unknown)) => {
                unknown_argument(&unknown, cli, arguments)
            }
            (ErrorKind::TooManyValues, Some(option)) if option == VERIFY => {
                context(ContextKind::InvalidValue).map(|model| to_verify(&model, arguments, None))
            }
            (ErrorKind::MissingRequiredArgument, _) => unnamed_checkpoint(arguments),
            _ => None,
        }
    };
    if let Some(tip) = tip {
        // What is most similar may mean something else.
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
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

/// The tip against a word in the place of a command.
fn no_command(
    word: &str,
    error: &clap::Error,
    cli: &Command,
    arguments: &[String],
) -> Option<String> {
    if cli.find_subcommand(word).is_some() {
        return Some(format!("the command `{word}` comes first, and has options of its own"));
    }
    if let Some(tip) = other_command(word, cli, arguments) {
        return Some(tip);
    }
    let is_similar = error.get(ContextKind::SuggestedSubcommand).is_some();
    if is_similar && !Path::new(word).exists() {
        return None;
    }
    if arguments.first().is_some_and(|it| it == "help") {
        let commands: Vec<_> = cli.get_subcommands().map(Command::get_name).collect();
        return Some(format!("there is help for the commands {}", commands.join(", ")));
    }
    let follows_option = error.get(ContextKind::PriorArg).is_some();
    Some(stray_word(word, cli, arguments, follows_option))
}

/// The tip against a word that belongs to no option.
fn stray_word(word: &str, cli: &Command, arguments: &[String], follows_option: bool) -> String {
    let words = words(cli, arguments);
    let other = words.iter().copied().find(|it| *it != word);
    let has_source = has(arguments, "--checkpoint") || has(arguments, "--weights");
    let has_output = has(arguments, "--output") || has(arguments, "-o");
    let quoted = shell_quote(word);
    let command = words.iter().copied().find(|it| cli.find_subcommand(it).is_some());
    if let Some(command) = command {
        format!("the command `{command}` comes first, and has options of its own")
    } else if is_model(word) && arguments.windows(2).any(|it| it == [VERIFY, word]) {
        to_verify(word, arguments, None)
    } else if let Some(model) = words.iter().find(|it| is_model(it) && Path::new(it).exists())
        && (has_source || words.len() > 1)
    {
        // An export to this name would replace it.
        to_verify(model, arguments, words.iter().find(|it| !is_model(it)).copied())
    } else if is_model(word) && has_source && !has_output {
        format!("the model is the value of an option: --output {quoted}")
    } else if has_source && follows_option {
        format!("leave out `{word}`, or put quotes around a path with spaces")
    } else if is_model(word) && other.is_none() {
        format!(
            "to describe a model, pass inspect {quoted}; to verify it, verify {quoted} --checkpoint DIR"
        )
    } else if has_source || !is_model(word) && other.is_some_and(|it| !is_model(it)) {
        format!("an export needs no command: leave out `{word}`")
    } else if has_output {
        format!("the checkpoint is the value of an option: --checkpoint {quoted}")
    } else {
        let [source, output] =
            if is_model(word) { [other, Some(word)] } else { [Some(word), other] };
        let source = source.map_or("DIR".to_owned(), shell_quote);
        let output = output.map_or("FILE.onnx".to_owned(), shell_quote);
        format!("to export a checkpoint, pass --checkpoint {source} --output {output}")
    }
}

/// The tip against the command of another tool in the place of a command.
fn other_command(word: &str, cli: &Command, arguments: &[String]) -> Option<String> {
    let is_first = arguments.first().is_some_and(|it| it == word);
    let mut all = OTHER_COMMANDS.iter();
    let (_, tip) = all.find(|(words, _)| words.split(' ').any(|it| it == word))?;
    let is_export = tip.contains("{word}");
    if Path::new(word).exists() || !is_first && !is_export {
        return None;
    }
    let others = words(cli, arguments).into_iter().filter(|it| *it != word);
    let (models, sources): (Vec<&str>, Vec<&str>) = others.partition(|it| is_model(it));
    let shown =
        |found: &[&str], none: &str| found.first().map_or(none.to_owned(), |it| shell_quote(it));
    let path = shown(&[&models[..], &sources].concat(), "PATH");
    let (model, source) = (shown(&models, "FILE.onnx"), shown(&sources, "DIR"));
    let word = &word.to_owned();
    let named = [("{path}", &path), ("{model}", &model), ("{source}", &source), ("{word}", word)];
    Some(named.iter().fold((*tip).to_owned(), |tip, (name, value)| tip.replace(name, value)))
}

/// The tip that an existing model is verified by a command.
fn to_verify(model: &str, arguments: &[String], other: Option<&str>) -> String {
    let source = value_of(arguments, "--checkpoint").or_else(|| value_of(arguments, "--weights"));
    let source = source.or(other);
    let source = source.map_or("DIR".to_owned(), shell_quote);
    let model = shell_quote(model);
    format!("to verify a model that is there, pass verify {model} --checkpoint {source}")
}

/// Words that are neither options nor their values.
fn words<'a>(cli: &Command, arguments: &'a [String]) -> Vec<&'a str> {
    let takes_value = |option: &str| {
        let mut all = cli.get_arguments().filter(|it| it.get_action().takes_values());
        all.any(|it| is_named(it, option))
    };
    let before = std::iter::once("").chain(arguments.iter().map(String::as_str));
    let pairs = before.zip(arguments.iter().map(String::as_str));
    let words = pairs.filter(|(before, word)| !word.starts_with('-') && !takes_value(before));
    words.map(|(_, word)| word).collect()
}

/// Whether an argument of a command is this option.
fn is_named(argument: &Arg, option: &str) -> bool {
    let long = argument.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long));
    long || argument.get_short().is_some_and(|short| option == format!("-{short}"))
}

/// The tip against an option or a word that a command does not have.
fn unknown_argument(unknown: &str, cli: &Command, arguments: &[String]) -> Option<String> {
    let command = arguments.first().filter(|it| cli.find_subcommand(it).is_some());
    let command = command.map_or("", String::as_str);
    if unknown.starts_with('-') {
        let mut all = OTHER_OPTIONS.iter();
        let hyphenated = unknown.replace('_', "-");
        let is_it = |options: &str| options.split(' ').any(|it| it == hyphenated);
        if let Some((.., tip)) = all.find(|(of, options, _)| *of == command && is_it(options)) {
            let value = value_of(arguments, unknown).map_or("PATH".to_owned(), shell_quote);
            return Some(tip.replace("PATH", &value));
        }
        let is_verified = arguments.iter().any(|it| it == VERIFY);
        let verify = cli.find_subcommand("verify").filter(|_| is_verified);
        let mut commands = std::iter::once(cli).chain(verify).chain(cli.get_subcommands());
        let owner = commands.find(|it| it.get_arguments().any(|it| is_named(it, unknown)))?;
        return Some(if owner.get_name() == cli.get_name() {
            format!("`{unknown}` is an option of an export, not of `{command}`")
        } else {
            format!(
                "`{unknown}` is an option of the command `{}`, which comes first",
                owner.get_name()
            )
        });
    }
    (!command.is_empty())
        .then(|| format!("`{command}` takes one path: put quotes around one with spaces"))
}

/// The tip against a checkpoint without its option in `verify`.
fn unnamed_checkpoint(arguments: &[String]) -> Option<String> {
    let [command, one, other, ..] = arguments else { return None };
    let [model, source] = if is_model(one) { [one, other] } else { [other, one] };
    let is_meant = command == "verify" && !is_model(source) && !source.starts_with('-');
    let [model, source] = [model, source].map(|it| shell_quote(it));
    is_meant.then(|| format!("the checkpoint is an option: verify {model} --checkpoint {source}"))
}

fn has(arguments: &[String], option: &str) -> bool {
    arguments.iter().any(|it| it.split('=').next() == Some(option))
}

/// What follows an option, or its `=`.
fn value_of<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|it| it.split('=').next() == Some(option))?;
    let joined = arguments[at].split_once('=').map(|(_, value)| value);
    joined.or(arguments.get(at + 1).map(String::as_str))
}
