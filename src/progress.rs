//! How long work reports how far it is; what shows it lives in the binary.

/// Receives the progress of one phase of work at a time, from any thread.
pub trait Progress: Sync {
    /// A phase begins that will handle `bytes` bytes.
    fn begin(&self, phase: &str, bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// The phase is over.
    fn end(&self);
    /// Whether the work should stop where it is.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}
