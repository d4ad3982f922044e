//! A background thread that lives as long as some work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Tells the background thread that the work is over.
#[derive(Default)]
pub struct StopFlag(AtomicBool);

impl StopFlag {
    /// Sleeps until the work is over or the time is up; whether the work is over.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        if !self.0.load(Ordering::Acquire) {
            thread::park_timeout(timeout);
        }
        self.0.load(Ordering::Acquire)
    }
}

/// Runs `work` beside a background thread and returns both results. The thread is joined
/// even if the work panics, so it must check the flag often.
pub fn with_background<W, B: Send>(
    background: impl FnOnce(&StopFlag) -> B + Send,
    work: impl FnOnce() -> W,
) -> (W, B) {
    let flag = StopFlag::default();
    thread::scope(|scope| {
        let running = scope.spawn(|| background(&flag));
        let stop = StopOnDrop { flag: &flag, thread: running.thread() };
        let result = work();
        drop(stop);
        (result, running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

struct StopOnDrop<'s> {
    flag: &'s StopFlag,
    thread: &'s Thread,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.flag.0.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_the_background_thread_when_work_panics() {
        let count =
            |flag: &StopFlag| (0..u32::MAX).find(|_| flag.wait_timeout(Duration::from_millis(1)));
        let (result, counted) = with_background(count, || 7);
        assert!(result == 7 && counted.is_some());
        let panicked = std::panic::catch_unwind(|| with_background(count, || panic!("as asked")));
        assert!(panicked.is_err());
    }
}
