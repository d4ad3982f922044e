//! Checkpoints on the Hugging Face hub: which files are needed, and how they come
//! into a folder, whole or not at all.
//!
//! Names, environment variables and what is noted below `.cache/huggingface` are
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
mod record;
mod shards;
mod transfer;

use std::path::{Path, PathBuf};

pub use error::{Error, Result};
pub use listing::File;
pub use name::Name;

use crate::checkpoint::{self, CONFIG, Headers, ShardSelection};
use crate::container::Header;
use crate::progress::Progress;
use cached::Cached;
use client::Client;
use environment::Environment;
use folder::Folder;
use listing::{Listing, offline, refuse_large};
use record::Record;
use transfer::Transfer;

/// What is to come from the hub, and where it goes.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    /// The checkpoint.
    pub name: &'w Name,
    /// The folder that will hold the repository's files.
    pub root: &'w Path,
    /// Names of files of the repository's root that belong to a checkpoint in any
    /// of its folders.
    pub companions: &'w [&'w str],
    /// Whether the hub is not to be asked.
    pub offline: bool,
}

/// A checkpoint on the hub, as much as is known without its weights: its config
/// and index have been fetched, of its weights the headers.
pub struct Repository {
    name: Name,
    root: PathBuf,
    folder: Folder,
    record: Record,
    listing: Listing,
    client: Option<Client>,
    cached: Option<Cached>,
    which: ShardSelection,
    headers: Headers,
    /// All that belong to the checkpoint.
    files: Vec<File>,
    /// Fetched so far.
    fetched: Vec<File>,
    /// Files of weights that are not there yet.
    weights: Vec<File>,
    /// Others that are not there yet.
    companions: Vec<File>,
}

impl Repository {
    /// Fetches what tells whether a checkpoint can be exported: config, index,
    /// and the headers of the weights that are not there yet.
    pub fn open(wanted: Wanted, progress: &dyn Progress) -> Result<Self> {
        let Wanted { name, root, .. } = wanted;
        let environment = Environment::read()?;
        let client = match wanted.offline || environment.offline {
            true => None,
            false => Some(Client::new(&environment)?),
        };
        let find = |commit| Some(Cached::find(environment.cache.as_ref()?, name, commit));
        let (listing, cached) = match &client {
            Some(client) => {
                let listing = Listing::ask(client, name, progress)?;
                let cached = find(Some(&listing.commit));
                (listing, cached)
            }
            None => {
                let cached = find(None);
                (Listing::offline(name, root, cached.as_ref())?, cached)
            }
        };
        let mut texts = vec![listing.need(name, CONFIG)?];
        texts.extend(listing.find(&name.path(checkpoint::INDEX)).cloned());
        let named = |name: &&str| listing.find(name).cloned();
        let companions: Vec<_> = wanted.companions.iter().filter_map(named).collect();
        refuse_large(&[&texts[..], &companions].concat())?;
        let record = Record::of(root, name)?;
        let mut repository = Self {
            name: name.clone(),
            root: root.to_owned(),
            folder: Folder::open(root)?,
            record,
            listing,
            client,
            cached,
            which: ShardSelection::Auto,
            headers: Headers::default(),
            files: [&texts[..], &companions].concat(),
            fetched: Vec::new(),
            weights: Vec::new(),
            companions: Vec::new(),
        };
        repository.record.write(root)?;
        repository.companions = repository.transfer(progress).missing(&companions)?;
        let texts = repository.transfer(progress).missing(&texts)?;
        repository.bring(texts, progress)?;
        repository.find_weights(progress)?;
        Ok(repository)
    }

    /// Where the checkpoint is, or will be.
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.name.folder)
    }

    /// Which of the files there are the checkpoint's.
    pub fn which(&self) -> &ShardSelection {
        &self.which
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
        &self.weights
    }

    /// Fetches what belongs to the weights besides.
    pub fn bring_companions(&mut self, progress: &dyn Progress) -> Result<()> {
        let missing = std::mem::take(&mut self.companions);
        self.bring(missing, progress)
    }

    /// Fetches the rest, and writes down that all is there.
    pub fn bring_all(&mut self, progress: &dyn Progress) -> Result<()> {
        self.bring_companions(progress)?;
        let missing = std::mem::take(&mut self.weights);
        self.bring(missing, progress)?;
        self.headers.clear();
        self.files.iter().try_for_each(|file| self.folder.note(file, &self.listing.commit))?;
        self.record.set_whole(&self.name, &self.listing.commit);
        self.record.write(&self.root)
    }

    fn bring(&mut self, missing: Vec<File>, progress: &dyn Progress) -> Result<()> {
        self.transfer(progress).bring(&missing)?;
        self.fetched.extend(missing);
        Ok(())
    }

    fn transfer<'a>(&'a self, progress: &'a dyn Progress) -> Transfer<'a> {
        let Self { name, listing, folder, client, cached, .. } = self;
        let (client, cached) = (client.as_ref(), cached.as_ref());
        Transfer { name, listing, folder, client, cached, progress }
    }

    /// Finds the files that hold the weights, and the headers of those that are not
    /// there.
    fn find_weights(&mut self, progress: &dyn Progress) -> Result<()> {
        let (which, weights) = self.weights_by_listing()?;
        self.which = which;
        self.weights = self.transfer(progress).missing(&weights)?;
        self.files.extend(weights);
        let read = |file: &File| Ok((self.folder.path(file), self.header(file, progress)?));
        self.headers = self.weights.iter().map(read).collect::<Result<_>>()?;
        Ok(())
    }

    /// Those of the index, or the only ones that there are.
    fn weights_by_listing(&self) -> Result<(ShardSelection, Vec<File>)> {
        let Self { name, listing, .. } = self;
        let indexed = listing.find(&name.path(checkpoint::INDEX)).is_some();
        let Some(shards) = checkpoint::shards(&self.folder())?.filter(|_| indexed) else {
            let only = listing.only_weights(name)?;
            let file = only.path.rsplit('/').next().unwrap_or_default().to_owned();
            return Ok((ShardSelection::Only(file), vec![only]));
        };
        let find = |shard: String| {
            let found = listing.find(&name.path(&shard)).cloned();
            found.ok_or_else(|| listing.lacks_shard(name, shard))
        };
        if !shards.iter().any(|shard| shard == checkpoint::SINGLE_FILE)
            && listing.find(&name.path(checkpoint::SINGLE_FILE)).is_some()
        {
            return Err(Error::TwoCheckpoints { name: name.to_string() });
        }
        Ok((ShardSelection::Indexed, shards.into_iter().map(find).collect::<Result<_>>()?))
    }

    /// The header of a file of weights, from the cache or from the hub.
    fn header(&self, file: &File, progress: &dyn Progress) -> Result<Header> {
        let copy = self.cached.as_ref().and_then(|cached| cached.copy_of(file));
        if let Some(header) = copy.and_then(|copy| Header::read(&copy).ok()) {
            return Ok(header);
        }
        let client = self.client.as_ref().ok_or_else(|| offline(&self.name, &file.path))?;
        let (path, address) =
            (self.folder.path(file), self.transfer(progress).address(client, file));
        let header = shards::header(client, &address, file, &path, progress);
        header.map_err(|error| error.of_file(&self.name))
    }
}
