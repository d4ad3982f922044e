//! What the command line says of itself to shells and to `man`.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

use super::console::write;

/// Print completions for a shell, to be sourced or put where it looks for them.
#[derive(Args, Debug)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

/// Print the manual page, in roff.
#[derive(Args, Debug)]
pub struct Man {}

impl Completions {
    /// Prints them.
    pub fn run(self, mut command: Command) -> Result<()> {
        let name = command.get_name().to_owned();
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut text);
        write(&text)
    }
}

impl Man {
    /// Prints it.
    pub fn run(self, command: Command) -> Result<()> {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        write(&text)
    }
}
