//! The kernel's lock on a file or folder.

use std::fs::{File, TryLockError};
use std::io;

/// Held until it is dropped, or the process ends, however it does.
pub struct Lock(File);

impl Lock {
    /// Of a file that is open; nothing where somebody else has it.
    pub fn of(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Lock {
    /// Closing is not enough: a process that another thread is just starting has the file
    /// open too, until it runs its own program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn it_ends_while_another_process_has_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = Lock::of(file.reopen().unwrap()).unwrap().unwrap();
        let inherited = lock.0.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("60").stdin(inherited).spawn().unwrap();
        let meanwhile = Lock::of(file.reopen().unwrap()).unwrap().is_none();
        drop(lock);
        let afterwards = Lock::of(file.reopen().unwrap()).unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(meanwhile && afterwards);
    }
}
