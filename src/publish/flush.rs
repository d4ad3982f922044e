//! Written bytes go to the disk while others are written.

use std::io;
use std::time::Duration;

use crate::background::{StopFlag, with_background};

/// How long written bytes may wait until they are sent to the disk.
const FLUSHED_EVERY: Duration = Duration::from_millis(50);

/// Does some work while another thread sends what it writes to the disk, so
/// that the sync at the end has little left to wait for.
pub fn while_flushing<R>(file: &std::fs::File, work: impl FnOnce() -> R) -> io::Result<R> {
    let flush = |flag: &StopFlag| {
        while !flag.wait_timeout(FLUSHED_EVERY) {
            // An error is told once only: it must not get lost here.
            file.sync_data()?;
        }
        Ok(())
    };
    let (result, flushed) = with_background(flush, work);
    flushed.map(|()| result)
}
