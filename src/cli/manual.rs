//! What the command line says of itself to shells and to `man`.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

use super::console::write;

/// Print shell completions
#[derive(Args, Debug)]
pub struct Completions {
    /// Shell
    shell: Shell,
}

/// Print the man page
#[derive(Args, Debug)]
pub struct Man {}

impl Completions {
    pub fn run(self, mut command: Command) -> Result<()> {
        let name = command.get_name().to_owned();
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut text);
        write(&text)
    }
}

impl Man {
    pub fn run(self, command: Command) -> Result<()> {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        write(&text)
    }
}
