//! The command line.

mod console;
mod export;
mod formats;
mod inspect;
mod manual;
mod remedy;
mod verify;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
pub use remedy::advice;

/// A release may add its commit, as `GPT_OSS_EXPORT_VERSION="0.1.0 (1a2b3c4d5)" cargo build`.
const VERSION: &str = match option_env!("GPT_OSS_EXPORT_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// What people type.
const EXAMPLES: &str = "\
Examples:
  The released model, from the hub, into ./gpt-oss-20b; verified:
    gpt-oss-export --checkpoint openai/gpt-oss-20b --download-dir gpt-oss-20b --output gpt-oss-20b/model.onnx --verify
  A fine-tune on this disk, for onnxruntime on a CPU, generating fast on any processor:
    gpt-oss-export --checkpoint my-fine-tune --output my-fine-tune/model.onnx --target ort --experts int8 --dense int8
  A folder that onnxruntime-genai opens:
    gpt-oss-export --checkpoint my-fine-tune --output genai/model.onnx --target ort --genai
  For a browser, with transformers.js:
    gpt-oss-export --checkpoint my-fine-tune --output web/onnx/model_q4f16.onnx --target ort --ep webgpu --experts int4 --transformers-js
  What is in a checkpoint, and whether a model is whole:
    gpt-oss-export inspect my-fine-tune
    gpt-oss-export inspect my-fine-tune/model.onnx";

/// Turn a GPT-OSS checkpoint into an ONNX model, exactly and without copying what need not be copied.
#[derive(Parser, Debug)]
#[command(
    name = "gpt-oss-export",
    version = VERSION,
    after_help = EXAMPLES,
    override_usage = "gpt-oss-export <--checkpoint DIR|REPO|--weights FILE> --output FILE.onnx [OPTIONS]\n       gpt-oss-export <COMMAND>",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    export: export::Export,
}

/// What else there is to do besides an export.
#[derive(Subcommand, Debug)]
enum Command {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Completions(manual::Completions),
    Man(manual::Man),
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> Result<()> {
        match self.command {
            Some(Command::Inspect(inspect)) => inspect.run(),
            Some(Command::Verify(verify)) => verify.run(),
            Some(Command::Completions(completions)) => completions.run(Self::command()),
            Some(Command::Man(man)) => man.run(Self::command()),
            None => self.export.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_in_order() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_examples_are_commands() {
        let lines = EXAMPLES.lines().filter(|line| line.starts_with("    "));
        let parsed = lines.map(|line| Cli::try_parse_from(line.split_whitespace()).map(|_| line));
        assert_eq!(parsed.collect::<Result<Vec<_>, _>>().unwrap().len(), 6);
    }
}
