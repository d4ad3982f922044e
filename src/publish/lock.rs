//! An advisory file lock of the kernel.

use std::fs::{File, TryLockError};
use std::io;

/// Held until it is dropped or the process ends.
pub struct Lock(File);

impl Lock {
    /// Locks an open file or folder; `None` if another process holds the lock.
    pub fn try_new(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Lock {
    /// Closing is not enough: a process that another thread is starting inherits the file
    /// until it runs its own program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn ends_while_a_child_process_has_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = Lock::try_new(file.reopen().unwrap()).unwrap().unwrap();
        let inherited = lock.0.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("60").stdin(inherited).spawn().unwrap();
        let held = Lock::try_new(file.reopen().unwrap()).unwrap().is_none();
        drop(lock);
        let released = Lock::try_new(file.reopen().unwrap()).unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(held && released);
    }
}
