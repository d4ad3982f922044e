//! Reading and writing at a place of a file, from any thread, and copying to one.

use std::fs::File;
use std::io::{self, Read};
#[cfg(unix)]
use std::io::{Seek, SeekFrom};

/// Fills `bytes` from a place of the file on.
#[cfg(unix)]
pub fn read_exact_at(file: &File, bytes: &mut [u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, place)
}

/// Writes `bytes` from a place of the file on.
#[cfg(unix)]
pub fn write_all_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

/// Copies so many bytes, or those that there are, from where one file is to a place of
/// another, whose cursor no other thread may use meanwhile. Inside the kernel where it
/// can: no byte passes through here.
#[cfg(unix)]
pub fn copy_to(from: &File, bytes: u64, mut file: &File, place: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(place))?;
    io::copy(&mut from.take(bytes), &mut file)
}

/// The same. Writing at a place moves the cursor here: only that is done.
#[cfg(windows)]
pub fn copy_to(mut from: &File, bytes: u64, file: &File, place: u64) -> io::Result<u64> {
    let (mut part, mut copied) = (vec![0; 1 << 20], 0);
    while copied < bytes {
        let most = (bytes - copied).min(part.len() as u64) as usize;
        match from.read(&mut part[..most])? {
            0 => break,
            read => {
                write_all_at(file, &part[..read], place + copied)?;
                copied += read as u64;
            }
        }
    }
    Ok(copied)
}

/// Fills `bytes` from a place of the file on.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut place: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, place)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, place) = (&mut bytes[read..], place + read as u64),
        }
    }
    Ok(())
}

/// Writes `bytes` from a place of the file on.
#[cfg(windows)]
pub fn write_all_at(file: &File, mut bytes: &[u8], mut place: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, place)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => (bytes, place) = (&bytes[written..], place + written as u64),
        }
    }
    Ok(())
}
