//! Work that cannot ask whether it should stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Stop;

/// How long a wish to stop may go unnoticed.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Does some work while another thread asks whether to stop, and then stops it.
pub fn watched<R>(stop: &Stop, cancel: impl FnOnce() + Send, work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if stop() {
                    return cancel();
                }
                thread::park_timeout(ASKED_EVERY);
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        watcher.thread().unpark();
        result
    })
}
