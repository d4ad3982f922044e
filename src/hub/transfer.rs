//! Files come from the hub, or from Hugging Face's cache, into the folder: each
//! grows under another name, goes on where it was cut, and takes its place when
//! its length and its digest are right.

use std::io::{Read, Seek, Write};
use std::path::Path;

use fs_err as fs;

use super::cached::Cached;
use super::client::{Answer, Client};
use super::failure::{Failure, Patience};
use super::folder::{Folder, State};
use super::listing::{File, Listing, offline};
use super::{Error, Name, Result};
use crate::files::digest::Digest;
use crate::files::parent_dir;
use crate::progress::{Progress, Unit, phase};

/// Bytes read of a file at once.
const CHUNK: usize = 1 << 20;

/// What takes files from one repository to one folder.
pub struct Transfer<'a> {
    pub name: &'a Name,
    pub listing: &'a Listing,
    pub folder: &'a Folder,
    /// Nothing where the hub is not to be asked.
    pub client: Option<&'a Client>,
    pub cached: Option<&'a Cached>,
    pub progress: &'a dyn Progress,
}

/// A file that grows.
struct Partial<'a> {
    file: &'a File,
    on_disk: fs::File,
    /// Of what there is.
    digest: Digest,
    length: u64,
    /// How long it has been since it was begun.
    furthest: u64,
}

impl Transfer<'_> {
    /// The files that are not there yet; one that is another is an error.
    pub fn missing(&self, files: &[File]) -> Result<Vec<File>> {
        let (mut missing, mut unknown) = (Vec::new(), Vec::new());
        for file in files {
            match self.folder.state(file)? {
                State::Absent => missing.push(file.clone()),
                State::Unknown => unknown.push(file),
                State::Whole => {}
            }
        }
        let _phase = phase(
            self.progress,
            "checking",
            Unit::Bytes,
            unknown.iter().map(|file| file.size).sum(),
        );
        for file in unknown {
            let mut digest = file.hasher();
            self.read(&self.folder.path(file), &mut |bytes| {
                digest.update(bytes);
                Ok(())
            })?;
            if digest.hex() != file.digest {
                return Err(self.folder.differs(file));
            }
        }
        Ok(missing)
    }

    /// Brings files that are not there.
    pub fn bring(&self, files: &[File]) -> Result<()> {
        let _phase = phase(
            self.progress,
            "downloading",
            Unit::Bytes,
            files.iter().map(|file| file.size).sum(),
        );
        files.iter().try_for_each(|file| self.bring_one(file))?;
        Ok(())
    }

    fn bring_one(&self, file: &File) -> Result<()> {
        let path = self.folder.incomplete(file);
        let mut partial = self.partial(file, &path)?;
        if let Some(copy) = self.cached.and_then(|cached| cached.copy_of(file)) {
            partial.restart()?;
            self.read(&copy, &mut |bytes| partial.append(bytes))?;
            if !partial.is_right() {
                partial.restart()?;
            }
        }
        if !partial.is_right() {
            self.download(&mut partial, &path)?;
        }
        partial.on_disk.sync_all()?;
        let target = self.folder.path(file);
        fs::create_dir_all(parent_dir(&target))?;
        if target.symlink_metadata().is_ok() {
            return Err(self.folder.differs(file));
        }
        fs::rename(&path, &target)?;
        self.folder.note(file, &self.listing.commit)
    }

    /// What has arrived of a file before, unless it is too much.
    fn partial<'f>(&self, file: &'f File, path: &Path) -> Result<Partial<'f>> {
        let mut options = fs::OpenOptions::new();
        let on_disk = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let mut partial = Partial { file, on_disk, digest: file.hasher(), length: 0, furthest: 0 };
        if partial.on_disk.metadata()?.len() > file.size {
            partial.restart()?;
        }
        let mut bytes = vec![0; CHUNK];
        loop {
            match partial.on_disk.read(&mut bytes)? {
                0 => return Ok(partial),
                count => {
                    partial.count(&bytes[..count]);
                    self.progress.advance(count as u64);
                }
            }
            self.unless_interrupted()?;
        }
    }

    /// Asks the hub for what is missing until all is there, and right.
    fn download(&self, partial: &mut Partial, path: &Path) -> Result<()> {
        let Some(client) = self.client else {
            return Err(offline(self.name, &partial.file.path));
        };
        let address = self.address(client, partial.file);
        let mut patience = Patience::with(&address);
        let mut second = false;
        loop {
            if let Err(failure) = self.receive(client, &address, partial, &mut patience) {
                let ended = patience.spend(failure, self.progress);
                ended.map_err(|error| error.of_file(self.name))?;
            } else if partial.is_right() {
                return Ok(());
            } else if second {
                fs::remove_file(path)?;
                return Err(self.damaged(partial));
            } else {
                // What was there before the cut may be what is wrong.
                second = true;
                partial.restart()?;
                partial.furthest = 0;
            }
        }
    }

    fn damaged(&self, partial: &Partial) -> Error {
        let File { path: file, digest: wanted, .. } = partial.file.clone();
        let repository = self.name.repository.clone();
        Error::Damaged { repository, file, wanted, found: partial.found() }
    }

    /// Where the hub has a file.
    pub fn address(&self, client: &Client, file: &File) -> String {
        let (Name { repository, .. }, commit) = (self.name, &self.listing.commit);
        client.address(&format!("{repository}/resolve/{commit}/{}", escaped(&file.path)))
    }

    /// Takes in what one answer brings, to the end of the file.
    fn receive(
        &self,
        client: &Client,
        address: &str,
        partial: &mut Partial,
        patience: &mut Patience,
    ) -> Result<(), Failure> {
        let File { size, .. } = *partial.file;
        if partial.length == size {
            return Ok(());
        }
        let range = (partial.length > 0).then_some(partial.length..size);
        let mut answer = client.open(address, range, self.progress)?;
        partial.meet(&answer)?;
        while let Some(bytes) = answer.piece(address, self.progress)? {
            if partial.length + bytes.len() as u64 > size {
                partial.restart()?;
                return Err(Failure::passing(format!("more than the {size} bytes of the file")));
            }
            partial.append(&bytes)?;
            self.progress.advance(bytes.len() as u64);
            if partial.gets_further() {
                patience.renew();
            }
        }
        match partial.length {
            length if length == size => Ok(()),
            length => {
                let what = format!("an answer that ended after {length} of {size} bytes");
                Err(Failure::passing(what))
            }
        }
    }

    /// Hands on the bytes of a file.
    fn read(&self, path: &Path, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut file = fs::File::open(path)?;
        let mut bytes = vec![0; CHUNK];
        loop {
            match file.read(&mut bytes)? {
                0 => return Ok(()),
                count => {
                    take(&bytes[..count])?;
                    self.progress.advance(count as u64);
                }
            }
            self.unless_interrupted()?;
        }
    }

    fn unless_interrupted(&self) -> Result<()> {
        if self.progress.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Partial<'_> {
    /// Gets ready for an answer. One that holds other bytes than those that are
    /// missing must not cost those that are there: it may come from anyone.
    fn meet(&mut self, answer: &Answer) -> Result<(), Failure> {
        let size = self.file.size;
        let fits = |said: Option<u64>| said.is_none_or(|said| said == size);
        if !fits(answer.end) || !fits(answer.size) {
            let found = answer.size.or(answer.end).unwrap_or_default();
            return Err(Failure::passing(format!("an answer of {found} bytes in place of {size}")));
        }
        match answer.start {
            start if start == self.length => Ok(()),
            // Who knows no ranges sends all.
            0 => Ok(self.restart()?),
            _ => Err(Failure::unclear()),
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.on_disk.set_len(0)?;
        self.on_disk.rewind()?;
        (self.digest, self.length) = (self.file.hasher(), 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.on_disk.write_all(bytes)?;
        self.count(bytes);
        Ok(())
    }

    fn count(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Whether it is longer than it was before: what begins anew again and again
    /// gets nowhere.
    fn gets_further(&mut self) -> bool {
        let before = self.furthest;
        self.furthest = before.max(self.length);
        self.furthest > before
    }

    fn found(&self) -> String {
        self.digest.clone().hex()
    }

    fn is_right(&self) -> bool {
        self.length == self.file.size && self.found() == self.file.digest
    }
}

/// A path as a part of an address.
fn escaped(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~".contains(c);
    let mut text = String::new();
    for c in path.chars() {
        match plain(c) {
            true => text.push(c),
            false => c.to_string().bytes().for_each(|byte| text += &format!("%{byte:02X}")),
        }
    }
    text
}
