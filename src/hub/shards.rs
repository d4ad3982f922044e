//! Headers of SafeTensors files that are still on the hub.

use std::path::Path;

use super::Result;
use super::client::Client;
use super::listing::File;
use crate::container::Header;
use crate::progress::Progress;

/// Bytes asked for at first; most headers end before.
const BEGINNING: u64 = 128 << 10;

/// Reads the header of a file that will be at `path`.
pub fn header(
    client: &Client,
    address: &str,
    file: &File,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Header> {
    let mut bytes = match file.size {
        0 => Vec::new(),
        size => client.read(address, Some(0..size.min(BEGINNING)), progress)?,
    };
    let end = 8 + Header::length(path, &bytes, file.size)?;
    if end > bytes.len() as u64 {
        let rest = bytes.len() as u64..end;
        bytes.extend(client.read(address, Some(rest), progress)?);
    }
    Ok(Header::parse(path, &bytes[8..end as usize], file.size)?)
}
