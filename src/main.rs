//! The `gpt-oss-export` binary.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use gpt_oss_export::display::escape_control;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody can be told, the status still tells.
            for sentence in cli::sentences(&error) {
                let _ = writeln!(std::io::stderr(), "error: {}", escape_control(&sentence));
            }
            ExitCode::FAILURE
        }
    }
}
