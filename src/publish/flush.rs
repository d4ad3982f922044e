//! Written bytes go to the disk while others are written.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long written bytes may wait until they are sent to the disk.
const FLUSHED_EVERY: Duration = Duration::from_millis(50);

/// Does some work while another thread sends what it writes to the disk, so
/// that the sync at the end has little left to wait for.
pub fn while_flushing<R>(file: &std::fs::File, work: impl FnOnce() -> R) -> io::Result<R> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            loop {
                thread::park_timeout(FLUSHED_EVERY);
                if done.load(Ordering::Acquire) {
                    return Ok(());
                }
                // An error is told once only: it must not get lost here.
                file.sync_data()?;
            }
        });
        let end = Ended { done: &done, waiting: flusher.thread() };
        let result = work();
        drop(end);
        flusher.join().expect("syncing does not panic").map(|()| result)
    })
}

/// Tells a waiting thread that the work is over, also where that panics: the thread is
/// waited for in any case.
struct Ended<'e> {
    done: &'e AtomicBool,
    waiting: &'e thread::Thread,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.waiting.unpark();
    }
}
