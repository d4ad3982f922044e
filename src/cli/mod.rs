//! The command line.

mod console;
mod export;
mod formats;
mod inspect;
mod verify;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Turn a GPT-OSS checkpoint into an ONNX model, exactly and without copying what need not be copied.
#[derive(Parser, Debug)]
#[command(
    name = "gpt-oss-export",
    version,
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
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> Result<()> {
        match self.command {
            Some(Command::Inspect(inspect)) => inspect.run(),
            Some(Command::Verify(verify)) => verify.run(),
            None => self.export.run(),
        }
    }
}
