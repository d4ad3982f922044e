//! Work that cannot ask whether it should stop.

use std::time::Duration;

use super::Stop;
use crate::companion::{Over, beside};

/// How long a wish to stop may go unnoticed.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Does some work while another thread asks whether to stop, and then stops it.
pub fn watched<R>(stop: &Stop, cancel: impl FnOnce() + Send, work: impl FnOnce() -> R) -> R {
    let watch = |over: &Over| {
        loop {
            if stop() {
                return cancel();
            }
            if over.within(ASKED_EVERY) {
                return;
            }
        }
    };
    beside(watch, work).0
}
