//! Work that cannot ask whether it should stop.

use std::time::Duration;

use super::Stop;
use crate::background::{StopFlag, with_background};

/// How long a wish to stop may go unnoticed.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Does some work while another thread asks whether to stop, and then stops it.
pub fn watched<R>(stop: &Stop, cancel: impl FnOnce() + Send, work: impl FnOnce() -> R) -> R {
    let watch = |flag: &StopFlag| {
        loop {
            if stop() {
                return cancel();
            }
            if flag.wait_timeout(ASKED_EVERY) {
                return;
            }
        }
    };
    with_background(watch, work).0
}
