//! Cancels work that cannot poll a flag itself.

use std::time::Duration;

use super::Stop;
use crate::background::{StopFlag, with_background};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs `work` while another thread polls `stop`, and calls `cancel` once it is true.
pub fn cancellable<R>(stop: &Stop, cancel: impl FnOnce() + Send, work: impl FnOnce() -> R) -> R {
    let poll = |finished: &StopFlag| {
        while !stop() {
            if finished.wait_timeout(POLL_INTERVAL) {
                return;
            }
        }
        cancel();
    };
    with_background(poll, work).0
}
