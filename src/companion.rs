//! Work beside which another thread does something until it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Whether the work is over.
#[derive(Default)]
pub struct Over(AtomicBool);

impl Over {
    /// Waits until it is, but no longer than this.
    pub fn within(&self, patience: Duration) -> bool {
        let is_over = || self.0.load(Ordering::Acquire);
        if !is_over() {
            thread::park_timeout(patience);
        }
        is_over()
    }
}

/// Does the work while the companion does its own, and returns what both have made. The
/// companion is waited for, also where the work panics, so it has to ask often.
pub fn beside<W, C: Send>(
    companion: impl FnOnce(&Over) -> C + Send,
    work: impl FnOnce() -> W,
) -> (W, C) {
    let over = Over::default();
    thread::scope(|scope| {
        let running = scope.spawn(|| companion(&over));
        let end = End { over: &over, waiting: running.thread() };
        let made = work();
        drop(end);
        (made, running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

struct End<'e> {
    over: &'e Over,
    waiting: &'e Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.over.0.store(true, Ordering::Release);
        self.waiting.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_companion() {
        let count = |over: &Over| (0..).find(|_| over.within(Duration::from_millis(1)));
        let (made, counted) = beside(count, || 7);
        assert!(made == 7 && counted.is_some());
        let panicked = std::panic::catch_unwind(|| beside(count, || panic!("as asked")));
        assert!(panicked.is_err());
    }
}
