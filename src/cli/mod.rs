//! The command line.

mod adapter;
mod console;
mod evaluate;
mod export;
mod generate;
mod inspect;
mod place;
mod remedy;
mod stages;
mod tip;
mod values;
mod verify;

use std::env;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tip::with_tip;

/// A release may add its commit, as `GPT_OSS_EXPORT_VERSION="0.1.0 (1a2b3c4d5)" cargo build`.
const VERSION: &str = match option_env!("GPT_OSS_EXPORT_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

const EXAMPLES: &str = "\
Examples:
  Export the released model from the hub for ONNX Runtime on a CPU, exactly, and verify it:
    gpt-oss-export --checkpoint openai/gpt-oss-20b --download-dir gpt-oss-20b --output gpt-oss-20b/model.onnx --for onnxruntime --verify
  Export a fine-tune for onnxruntime-genai, exactly:
    gpt-oss-export --checkpoint my-fine-tune --output genai/model.onnx --for genai
  Export it for a browser with transformers.js; experts become int4, which rounds:
    gpt-oss-export --checkpoint my-fine-tune --output web/onnx/model_q4f16.onnx --for transformers-js
  Export it smaller and faster for a CPU; weights and activations are rounded:
    gpt-oss-export --checkpoint my-fine-tune --output small/model.onnx --for onnxruntime --experts int4 --dense int8
  Export a model that takes LoRA adapters at run time, and add one later, as a file:
    gpt-oss-export --checkpoint my-base --adapter-as swappable --output swap/model.onnx --for onnxruntime
    gpt-oss-export adapter my-adapter --for swap/model.onnx --output swap/my-adapter.onnx_adapter
  Continue a text with the model, and answer a message:
    gpt-oss-export generate my-fine-tune/model.onnx --prompt Once
    gpt-oss-export generate my-fine-tune/model.onnx --chat Hello --final
  Describe a checkpoint, and check whether a model's data is complete:
    gpt-oss-export inspect my-fine-tune
    gpt-oss-export inspect my-fine-tune/model.onnx
  Compare formats on a text, and write a page with plots:
    gpt-oss-export evaluate --checkpoint my-fine-tune --text held-out.txt --formats mxfp4,int8,int4 --report formats.html";

/// Export GPT-OSS checkpoints to ONNX by addressing their bytes, not converting them
#[derive(Parser, Debug)]
#[command(
    name = "gpt-oss-export",
    bin_name = "gpt-oss-export",
    version = VERSION,
    after_help = EXAMPLES,
    override_usage = "gpt-oss-export (--checkpoint DIR|REPO | --weights FILE) --output FILE.onnx [OPTIONS]\n       gpt-oss-export <COMMAND>",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    export: export::Export,
}

#[derive(Subcommand, Debug)]
enum Command {
    Adapter(adapter::WriteAdapter),
    Evaluate(evaluate::Evaluate),
    Generate(generate::Generate),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    /// Print shell completions
    Completions {
        /// Shell to print completions for
        shell: Shell,
    },
    /// Print the man page
    Man,
}

impl Cli {
    /// Reads the command line, or ends the process with a tip.
    pub fn read() -> Self {
        let arguments = || env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned());
        Self::try_parse().unwrap_or_else(|error| {
            with_tip(error, &Self::command(), &arguments().collect::<Vec<_>>()).exit()
        })
    }

    /// Runs a command; what to print of an error, line by line.
    pub fn run(self) -> Result<(), Vec<String>> {
        let has: remedy::Has = match self.command {
            Some(Command::Adapter(_)) => adapter::has,
            Some(Command::Evaluate(_)) => evaluate::has,
            Some(Command::Generate(_)) => generate::has,
            Some(Command::Verify(_)) => verify::has,
            _ => Some,
        };
        self.run_command().map_err(|error| remedy::report(&error, has))
    }

    fn run_command(self) -> Result<()> {
        #[cfg(unix)]
        console::survive_file_size_limit()?;
        let mut text = Vec::new();
        match self.command {
            None => return self.export.run(),
            Some(Command::Adapter(adapter)) => return adapter.run(),
            Some(Command::Evaluate(evaluate)) => return evaluate.run(),
            Some(Command::Generate(generate)) => return generate.run(),
            Some(Command::Inspect(inspect)) => return inspect.run(),
            Some(Command::Verify(verify)) => return verify.run(),
            Some(Command::Completions { shell }) => {
                clap_complete::generate(shell, &mut Self::command(), "gpt-oss-export", &mut text);
            }
            Some(Command::Man) => clap_mangen::Man::new(Self::command()).render(&mut text)?,
        }
        console::write(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_valid_and_described_in_a_line() {
        let command = Cli::command();
        command.clone().debug_assert();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            for option in command.get_arguments() {
                let help =
                    option.get_help().unwrap_or_else(|| panic!("{} has no help", option.get_id()));
                let help = help.to_string();
                assert!(help.chars().count() <= 80, "{help}");
            }
        }
    }

    #[test]
    fn examples_parse() {
        let lines = EXAMPLES.lines().filter(|line| line.starts_with("    "));
        let parsed = lines.map(|line| Cli::try_parse_from(line.split_whitespace()).map(|_| line));
        assert_eq!(parsed.collect::<Result<Vec<_>, _>>().unwrap().len(), 11);
    }
}
