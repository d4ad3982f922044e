//! How long work reports how far it is; what shows it lives in the binary.

use crate::error::{Error, Result};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of files.
    Bytes,
    /// Tokens that a model is given.
    Tokens,
    /// Nothing: nobody knows how long it takes.
    Seconds,
}

/// Receives the progress of one phase of work at a time, from any thread. Methods do nothing
/// unless implemented.
pub trait Progress: Sync {
    /// A phase begins; `total` counts units.
    fn begin(&self, _phase: &str, _unit: Unit, _total: u64) {}
    /// So many more are done.
    fn advance(&self, _count: u64) {}
    /// The phase is over.
    fn end(&self) {}
    /// Whether the work should stop where it is.
    fn is_cancelled(&self) -> bool {
        false
    }
    /// Fails once the work should stop.
    fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

/// Begins a phase, which ends when this is dropped.
pub fn phase<'p>(progress: &'p dyn Progress, phase: &str, unit: Unit, total: u64) -> Phase<'p> {
    progress.begin(phase, unit, total);
    Phase(progress)
}

/// A phase of work.
pub struct Phase<'p>(&'p dyn Progress);

impl Drop for Phase<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {}
