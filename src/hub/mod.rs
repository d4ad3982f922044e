//! Checkpoints on the Hugging Face hub: which files are needed, and how they come
//! into a folder, whole or not at all.
//!
//! Names, environment variables and the records below `.cache/huggingface` are
//! those of Hugging Face's own tools, so what one of them has fetched is not
//! fetched again.

mod cached;
mod client;
mod environment;
mod error;
mod failure;
mod folder;
mod listing;
mod name;
mod shards;
mod transfer;

use std::path::{Path, PathBuf};

pub use error::{Error, Result};
pub use listing::File;
pub use name::Name;

use crate::checkpoint::{self, Headers};
use crate::container::Header;
use crate::progress::Progress;
use cached::Snapshot;
use client::Client;
use environment::Environment;
use folder::Folder;
use listing::Listing;
use transfer::Transfer;

const CONFIG: &str = "config.json";

/// A checkpoint on the hub, as much as is known without its weights: its config
/// and index have been fetched, of its weights the headers.
pub struct Repository {
    name: Name,
    root: PathBuf,
    folder: Folder,
    listing: Listing,
    client: Option<Client>,
    snapshot: Option<Snapshot>,
    headers: Headers,
    /// Fetched so far.
    fetched: Vec<File>,
    /// Files of weights that are not there yet.
    missing: Vec<File>,
}

impl Repository {
    /// Fetches what tells whether a checkpoint can be exported: config, index,
    /// and the headers of the weights that are not in `root` yet.
    pub fn open(name: &Name, root: &Path, offline: bool, progress: &dyn Progress) -> Result<Self> {
        let environment = Environment::read()?;
        let offline = offline || environment.offline;
        let client = if offline { None } else { Some(Client::new(&environment)?) };
        let find = |commit| {
            environment.cache.as_ref().and_then(|cache| Snapshot::find(cache, name, commit))
        };
        let (listing, snapshot) = match &client {
            Some(client) => {
                let listing = Listing::ask(client, name, progress)?;
                let snapshot = find(Some(&listing.commit));
                (listing, snapshot)
            }
            None => {
                let snapshot = find(None);
                (Listing::offline(name, root, snapshot.as_ref())?, snapshot)
            }
        };
        let config = listing.config(name)?;
        let mut repository = Self {
            name: name.clone(),
            root: root.to_owned(),
            folder: Folder::open(root)?,
            listing,
            client,
            snapshot,
            headers: Headers::default(),
            fetched: Vec::new(),
            missing: Vec::new(),
        };
        let index = repository.listing.find(&name.path(checkpoint::INDEX)).cloned();
        repository.bring([&[config], index.as_slice()].concat(), progress)?;
        let weights = repository.weights()?;
        repository.missing = repository.missing(&weights, progress)?;
        repository.read_headers(progress)?;
        Ok(repository)
    }

    /// Where the checkpoint is, or will be.
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.name.folder)
    }

    /// Headers of the weights that are not there yet.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The repository at its commit, and the folder in it.
    pub fn source(&self) -> String {
        let revision = self.listing.commit.clone();
        Name { revision, ..self.name.clone() }.to_string()
    }

    /// Files that were fetched.
    pub fn fetched(&self) -> &[File] {
        &self.fetched
    }

    /// Files of weights that are not there yet.
    pub fn awaited(&self) -> &[File] {
        &self.missing
    }

    /// Fetches the weights.
    pub fn download(&mut self, progress: &dyn Progress) -> Result<()> {
        let missing = std::mem::take(&mut self.missing);
        self.bring(missing, progress)
    }

    /// Fetches those of these files that the repository's root has, and that belong
    /// to a checkpoint in any of its folders.
    pub fn download_companions(&mut self, names: &[&str], progress: &dyn Progress) -> Result<()> {
        let files = names.iter().filter_map(|name| self.listing.find(name)).cloned().collect();
        self.bring(files, progress)
    }

    fn bring(&mut self, files: Vec<File>, progress: &dyn Progress) -> Result<()> {
        let missing = self.missing(&files, progress)?;
        self.transfer(progress).bring(&missing)?;
        self.fetched.extend(missing);
        Ok(())
    }

    fn missing(&self, files: &[File], progress: &dyn Progress) -> Result<Vec<File>> {
        self.transfer(progress).missing(files)
    }

    fn transfer<'a>(&'a self, progress: &'a dyn Progress) -> Transfer<'a> {
        let Self { name, listing, folder, client, snapshot, .. } = self;
        let (client, snapshot) = (client.as_ref(), snapshot.as_ref());
        Transfer { name, listing, folder, client, snapshot, progress }
    }

    /// The files that hold the weights: those of the index, or the only one.
    fn weights(&self) -> Result<Vec<File>> {
        let Self { name, listing, .. } = self;
        let Some(shards) = checkpoint::shards(&self.folder())? else {
            return Ok(vec![listing.only_weights(name)?]);
        };
        let find = |shard: String| {
            let found = listing.find(&name.path(&shard)).cloned();
            found.ok_or_else(|| Error::NoShard { name: name.to_string(), shard })
        };
        shards.into_iter().map(find).collect()
    }

    /// Reads the headers of what is missing, from the cache or from the hub.
    fn read_headers(&mut self, progress: &dyn Progress) -> Result<()> {
        let read = |file: &File| {
            let path = self.folder.path(file);
            let copy = self.snapshot.as_ref().and_then(|snapshot| snapshot.copy_of(file));
            let header = match copy.and_then(|copy| Header::read(&copy).ok()) {
                Some(header) => header,
                None => self.header_from_hub(file, &path, progress)?,
            };
            Ok((path, header))
        };
        self.headers = self.missing.iter().map(read).collect::<Result<_>>()?;
        Ok(())
    }

    fn header_from_hub(&self, file: &File, path: &Path, progress: &dyn Progress) -> Result<Header> {
        let Some(client) = &self.client else {
            let (name, file) = (self.name.to_string(), file.path.clone());
            return Err(Error::Offline { name, file });
        };
        let address = self.transfer(progress).address(client, file);
        let header = shards::header(client, &address, file, path, progress);
        header.map_err(|error| client.explain(error, &self.name))
    }
}
