//! Downloads: resumed where they were interrupted, checked against the hub's digests, and
//! only then moved into place.

use std::io::{Read, Seek, Write};
use std::path::Path;

use fs_err as fs;
use hf_hub::Cache;

use super::cache::CachedRepo;
use super::folder::{DownloadFolder, folder_error};
use super::http::{Client, Failure};
use super::listing::{HubFolder, Listing, RemoteFile};
use crate::checkpoint::{self, Headers};
use crate::container::Header;
use crate::error::{Error, Kind, Result, Setting, bail, err};
use crate::files::digest::Digest;
use crate::files::parent_dir;
use crate::progress::{Progress, Unit, phase};

const CHUNK: usize = 1 << 20;
/// Bytes of a SafeTensors file that are requested first; most headers end before.
const HEADER_GUESS: u64 = 128 << 10;

pub struct Downloader<'p> {
    pub listing: Listing,
    pub folder: DownloadFolder,
    /// `None` when offline.
    pub client: Option<Client<'p>>,
    pub cached: Option<CachedRepo>,
    pub progress: &'p dyn Progress,
}

struct Partial<'a> {
    file: &'a RemoteFile,
    output: fs::File,
    digest: Digest,
    length: u64,
    /// The greatest length in this attempt; a hub that starts over must get beyond it.
    furthest: u64,
    /// The greatest length in all attempts, which is the reported progress.
    reported: u64,
    progress: &'a dyn Progress,
}

impl<'p> Downloader<'p> {
    /// Creates and locks the folder for the files of a list.
    pub fn open(
        HubFolder { name, root, .. }: HubFolder,
        listing: Listing,
        client: Option<Client<'p>>,
        cache: Option<Cache>,
        progress: &'p dyn Progress,
    ) -> Result<Self> {
        let cached = cache.and_then(|cache| CachedRepo::find(&cache, name, Some(&listing.commit)));
        let folder = DownloadFolder::open(root, &name.repository)?;
        Ok(Self { listing, folder, client, cached, progress })
    }

    /// The repository's name with its commit as the revision.
    pub fn source_name(&self) -> String {
        let Listing { name, commit, .. } = &self.listing;
        name.at(commit).to_string()
    }

    /// Remembers at which commit these files were fetched, all of them.
    pub fn finish(&self, files: &[RemoteFile]) -> Result<()> {
        let Self { folder, listing: Listing { name, commit, .. }, .. } = self;
        files.iter().try_for_each(|file| folder.write_record(file, commit))?;
        folder.write_commit(name, commit)
    }

    /// The files that are not in the folder yet. Other files in their places are errors.
    pub fn missing(&self, files: &[RemoteFile]) -> Result<Vec<RemoteFile>> {
        let is_missing = |file: &RemoteFile| self.folder.path(file).symlink_metadata().is_err();
        let (missing, mut unknown): (Vec<_>, Vec<_>) = files.iter().cloned().partition(is_missing);
        unknown.retain(|file| self.folder.record(file).is_none_or(|it| it.digest != file.digest));
        let total = unknown.iter().map(|file| file.size).sum();
        let _phase = phase(self.progress, "checking", Unit::Bytes, total);
        for file in &unknown {
            let path = self.folder.path(file);
            let (found, mut digest) = (fs::metadata(&path)?, file.hasher());
            if found.is_file() && found.len() == file.size {
                for_each_chunk(fs::File::open(path)?, self.progress, |bytes| {
                    digest.update(bytes);
                    self.progress.advance(bytes.len() as u64);
                    Ok(())
                })?;
            }
            if digest.hex() != file.digest {
                return Err(self.differs(file));
            }
        }
        Ok(missing)
    }

    /// Brings files into the folder, from the cache or else from the hub.
    pub fn fetch(&self, files: &[RemoteFile]) -> Result<()> {
        let total = files.iter().map(|file| file.size).sum();
        let _phase = phase(self.progress, "downloading", Unit::Bytes, total);
        let fetched = files.iter().try_for_each(|file| self.fetch_one(file));
        fetched.map_err(|error| self.resumable(files, error))
    }

    /// The same error, with what becomes of the parts that have arrived.
    fn resumable(&self, files: &[RemoteFile], error: Error) -> Error {
        let is_begun = |file: &RemoteFile| {
            let paths = [self.folder.path(file), self.folder.incomplete(file)];
            paths.iter().any(|path| path.metadata().is_ok_and(|it| it.len() > 0))
        };
        let kind = error.kind();
        if ![Kind::Io, Kind::Interrupted].contains(&kind) || !files.iter().any(is_begun) {
            return error;
        }
        err!("{error}; downloaded parts are kept, and the same command goes on from there")
            .with_kind(kind)
    }

    fn fetch_one(&self, file: &RemoteFile) -> Result<()> {
        let incomplete = self.folder.incomplete(file);
        let mut partial = Partial::open(file, &incomplete, self.progress)?;
        if let Some(copy) = self.cached.as_ref().and_then(|cached| cached.copy_of(file)) {
            partial.restart()?;
            for_each_chunk(fs::File::open(copy)?, self.progress, |bytes| partial.append(bytes))?;
        }
        if !partial.is_complete() {
            self.download(&mut partial, &incomplete)?;
        }
        partial.output.sync_all()?;
        let target = self.folder.path(file);
        fs::create_dir_all(parent_dir(&target))?;
        if target.symlink_metadata().is_ok() {
            return Err(self.differs(file));
        }
        fs::rename(incomplete, target)?;
        self.folder.write_record(file, &self.listing.commit)
    }

    /// Downloads the rest, and everything again if the digest is wrong then: the bytes of an
    /// earlier run may be the wrong ones.
    fn download(&self, partial: &mut Partial, path: &Path) -> Result<()> {
        let (client, url) = self.source(partial.file)?;
        for attempt in 0..2 {
            if attempt > 0 || partial.length >= partial.file.size {
                partial.restart()?;
            }
            partial.furthest = partial.length;
            while partial.length < partial.file.size {
                client.retry(&url, || {
                    let before = partial.furthest;
                    match append_response(client, &url, partial) {
                        // New bytes have arrived: the next response resumes behind them.
                        Err(Failure::Transient(..)) if partial.furthest > before => Ok(()),
                        result => result,
                    }
                })?;
            }
            if partial.is_complete() {
                return Ok(());
            }
        }
        fs::remove_file(path)?;
        let (RemoteFile { path, digest, .. }, found) = (partial.file, partial.digest.clone().hex());
        bail!(
            "`{path}` of `{}` arrived twice with digest {found}, expected {digest}: the network or the hub changes its bytes, and nothing of it was kept: try another network",
            self.listing.name.repository
        )
    }

    /// The SafeTensors header of a file, whether it is in the folder yet or not.
    pub fn header(&self, file: &RemoteFile) -> Result<Header> {
        let path = self.folder.path(file);
        if path.exists() {
            return Header::read(&path);
        }
        let copy = self.cached.as_ref().and_then(|cached| cached.copy_of(file));
        if let Some(header) = copy.and_then(|copy| Header::read(&copy).ok()) {
            return Ok(header);
        }
        let (client, url) = self.source(file)?;
        let read = |range| client.read_range(&url, range, file.size);
        let mut bytes = read(0..file.size.min(HEADER_GUESS))?;
        let end = 8 + Header::length(&path, &bytes, file.size)?;
        if end > bytes.len() as u64 {
            bytes.extend(read(bytes.len() as u64..end)?);
        }
        Header::parse(&path, &bytes[8..end as usize], file.size)
    }

    fn source(&self, file: &RemoteFile) -> Result<(&Client<'_>, String)> {
        let Some(client) = &self.client else {
            let Listing { name, offline, .. } = &self.listing;
            let offline =
                offline.as_ref().expect("there is a client unless requests are forbidden");
            return Err(offline.missing(name, &file.path));
        };
        Ok((client, self.listing.url(&client.environment.endpoint, file)))
    }

    /// Refuses files of the folder that are not the repository's, and would be taken for the
    /// checkpoint or make it ambiguous. Those of `headers` are still to be fetched. Shards of the
    /// repository's index may be added by hand.
    pub fn refuse_strangers(&self, headers: &Headers, has_index: bool) -> Result<()> {
        let Listing { name, .. } = &self.listing;
        let folder = name.folder_in(&self.folder.root);
        let chosen = checkpoint::select_local(&folder, headers);
        let (_, chosen) = chosen.map_err(|error| error.with_remedy(Setting::DownloadDir, "DIR"))?;
        let is_strange = |file: &&String| self.listing.find(&name.file(file)).is_none();
        let stranger = chosen.iter().find(is_strange).filter(|_| !has_index);
        stranger.map_or(Ok(()), |file| {
            Err(folder_error(format!(
                "`{}` holds `{file}`, which is no file of `{name}` and would be taken for its checkpoint: move it away, or choose another download folder",
                folder.display()
            )))
        })
    }

    /// The error for another file in the place of a repository's file.
    fn differs(&self, file: &RemoteFile) -> Error {
        let (Listing { name, commit, .. }, path) = (&self.listing, self.folder.path(file));
        let recorded = self.folder.record(file).map_or_else(String::new, |record| {
            let (other, pinned) = (&record.commit, name.at(&record.commit));
            format!(
                "; it is from commit {other}, which `{pinned}` exports with this download folder"
            )
        });
        folder_error(format!(
            "`{}` differs from `{}` at commit {commit}{recorded}: choose another download folder, or move the file away",
            path.display(),
            file.path
        ))
    }
}

/// Reads a local file, unless the user cancels.
fn for_each_chunk(
    mut input: fs::File,
    progress: &dyn Progress,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        progress.check_cancelled()?;
        match input.read(&mut bytes)? {
            0 => return Ok(()),
            count => take(&bytes[..count])?,
        }
    }
}

fn append_response(client: &Client, url: &str, partial: &mut Partial) -> Result<(), Failure> {
    let size = partial.file.size;
    let (start, mut body) = client.open(url, partial.length..size, size)?;
    if start < partial.length {
        partial.restart()?;
    }
    let mut bytes = vec![0; CHUNK];
    while partial.length < size {
        partial.progress.check_cancelled()?;
        let rest = CHUNK.min((size - partial.length) as usize);
        match body.read(&mut bytes[..rest]) {
            Ok(0) => return Err(Failure::transient("a response that ended early")),
            Ok(count) => partial.append(&bytes[..count])?,
            Err(error) => return Err(Failure::transport(url, error.into())),
        }
    }
    Ok(())
}

impl<'a> Partial<'a> {
    /// Opens what earlier runs have downloaded.
    fn open(file: &'a RemoteFile, path: &Path, progress: &'a dyn Progress) -> Result<Self> {
        let mut options = fs::File::options();
        let output = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let (existing, digest) = (output.try_clone()?, file.hasher());
        let mut partial =
            Self { file, output, digest, length: 0, furthest: 0, reported: 0, progress };
        if existing.metadata()?.len() > file.size {
            partial.restart()?;
        }
        for_each_chunk(existing, progress, |bytes| {
            partial.track(bytes);
            Ok(())
        })?;
        Ok(partial)
    }

    fn restart(&mut self) -> Result<()> {
        self.output.set_len(0)?;
        self.output.rewind()?;
        (self.digest, self.length) = (self.file.hasher(), 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes)?;
        self.track(bytes);
        Ok(())
    }

    fn track(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        self.furthest = self.furthest.max(self.length);
        self.progress.advance(self.length.saturating_sub(self.reported));
        self.reported = self.reported.max(self.length);
    }

    fn is_complete(&self) -> bool {
        self.length == self.file.size && self.digest.clone().hex() == self.file.digest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl Progress for Counter {
        fn advance(&self, count: u64) {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    #[test]
    fn progress_counts_each_byte_once() {
        let (progress, folder) = (Counter::default(), tempfile::tempdir().unwrap());
        let file = RemoteFile::new("f".to_owned(), 8, "0".repeat(40)).unwrap();
        let mut partial = Partial::open(&file, &folder.path().join("f"), &progress).unwrap();
        for (bytes, expected) in [(&b"abcde"[..], 5), (b"abc", 5), (b"abcdefgh", 8)] {
            partial.restart().unwrap();
            partial.append(bytes).unwrap();
            assert_eq!(progress.0.load(Ordering::Relaxed), expected);
        }
    }
}
