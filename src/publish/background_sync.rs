//! Sync of written bytes while others are written.

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::background::{StopFlag, with_background};

const SYNC_INTERVAL: Duration = Duration::from_millis(50);

/// Runs `work` while a background thread syncs what it writes, so that the final sync is
/// short.
pub fn with_sync<R>(file: &File, work: impl FnOnce() -> R) -> io::Result<R> {
    let sync = |flag: &StopFlag| {
        while !flag.wait_timeout(SYNC_INTERVAL) {
            // An I/O error is reported once, so it must not get lost here.
            file.sync_data()?;
        }
        Ok(())
    };
    let (result, synced) = with_background(sync, work);
    synced.map(|()| result)
}
