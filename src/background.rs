//! A background thread that lives as long as some work.

use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

/// Tells the background thread that the work is over: its sender is dropped then.
pub struct StopFlag(Receiver<()>);

impl StopFlag {
    /// Sleeps until the work is over or the time is up; whether the work is over.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Runs `work` beside a background thread and returns both results. The thread is joined
/// even if the work panics, so it must check the flag often.
pub fn with_background<W, B: Send>(
    background: impl FnOnce(&StopFlag) -> B + Send,
    work: impl FnOnce() -> W,
) -> Result<(W, B)> {
    let (sender, receiver) = mpsc::channel();
    thread::scope(move |scope| {
        let running = thread::Builder::new()
            .spawn_scoped(scope, move || background(&StopFlag(receiver)))
            .map_err(Error::no_thread)?;
        let result = work();
        drop(sender);
        Ok((result, running.join().unwrap_or_else(|panic| resume_unwind(panic))))
    })
}

/// Runs `work` on a thread of its own; `None` if it takes longer, and is given up.
pub fn with_timeout<W: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> W + Send + 'static,
) -> Result<Option<W>> {
    let (sender, receiver) = mpsc::channel();
    // Nobody may wait for the result any more.
    let work = move || drop(sender.send(work()));
    thread::Builder::new().spawn(work).map_err(Error::no_thread)?;
    Ok(receiver.recv_timeout(limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_the_background_thread_when_work_panics() {
        let count =
            |flag: &StopFlag| (0..u32::MAX).find(|_| flag.wait_timeout(Duration::from_millis(1)));
        let (result, counted) = with_background(count, || 7).unwrap();
        assert!(result == 7 && counted.is_some());
        let panicked = std::panic::catch_unwind(|| with_background(count, || panic!("as asked")));
        assert!(panicked.is_err());
    }
}
