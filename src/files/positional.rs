//! Positional reads, writes and copies, from any thread.

use std::fs::File;
use std::io::{self, Read};
#[cfg(unix)]
use std::io::{Seek, SeekFrom};

/// Fills `bytes` from `offset` on.
#[cfg(unix)]
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(unix)]
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Copies up to `bytes` from the cursor of one file to an offset of another, whose cursor
/// no other thread may use meanwhile. The kernel copies where it can
/// (`copy_file_range`, `sendfile`).
#[cfg(unix)]
pub fn copy_to(from: &File, bytes: u64, mut file: &File, offset: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(offset))?;
    io::copy(&mut from.take(bytes), &mut file)
}

#[cfg(windows)]
pub fn copy_to(from: &File, bytes: u64, file: &File, offset: u64) -> io::Result<u64> {
    let (mut from, mut part, mut copied) = (from.take(bytes), vec![0; 1 << 20], 0);
    loop {
        let read = from.read(&mut part)?;
        if read == 0 {
            return Ok(copied);
        }
        write_all_at(file, &part[..read], offset + copied)?;
        copied += read as u64;
    }
}

#[cfg(windows)]
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, offset) = (&mut bytes[read..], offset + read as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => (bytes, offset) = (&bytes[written..], offset + written as u64),
        }
    }
    Ok(())
}
