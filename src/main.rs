//! The `gpt-oss-export` binary.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use gpt_oss_export::display::escape_control;

fn main() -> ExitCode {
    match cli::Cli::read().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(lines) => {
            // Where nobody can be told, the status still tells.
            for line in lines {
                let _ = writeln!(std::io::stderr(), "{}", escape_control(&line));
            }
            ExitCode::FAILURE
        }
    }
}
