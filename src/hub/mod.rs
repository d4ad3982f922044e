//! Checkpoints on the Hugging Face hub: which files are needed, and their download.
//!
//! Environment variables, the cache and the metadata of downloads are those of Hugging Face's
//! own tools, so what one of them has downloaded is not downloaded again.

mod cache;
mod download;
mod environment;
mod failure;
mod folder;
mod http;
mod listing;
mod repo_path;

use std::path::{Path, PathBuf};

pub use listing::RemoteFile;
pub use repo_path::RepoPath;

use crate::checkpoint::{self, CONFIG, Headers, INDEX, ShardSelection};
use crate::error::{Result, ensure};
use crate::progress::Progress;
use cache::{CachedRepo, list_offline};
use download::Downloader;
use environment::Environment;
use folder::DownloadFolder;
use http::Client;
use listing::Listing;

/// The largest config, index or tokenizer file.
const LARGEST_TEXT: u64 = 256 << 20;

#[derive(Clone, Copy)]
pub struct FetchRequest<'r> {
    pub name: &'r RepoPath,
    pub root: &'r Path,
    /// Files of the repository's root that belong to a checkpoint in any of its folders.
    pub companions: &'r [&'r str],
    pub offline: bool,
}

/// A checkpoint on the hub. Its config, index and headers are known, its weights may be on
/// the hub still.
pub struct Repository<'p> {
    pub which: ShardSelection,
    pub headers: Headers,
    pub fetched: Vec<RemoteFile>,
    pub missing_weights: Vec<RemoteFile>,
    missing_companions: Vec<RemoteFile>,
    files: Vec<RemoteFile>,
    downloader: Downloader<'p>,
}

impl<'p> Repository<'p> {
    /// Fetches what tells whether a checkpoint can be exported: config, index, and headers.
    pub fn open(request: FetchRequest, progress: &'p dyn Progress) -> Result<Self> {
        let FetchRequest { name, root, .. } = request;
        let environment = Environment::read()?;
        let cache = environment.cache.as_ref();
        let (listing, client) = if request.offline || environment.offline {
            (list_offline(name, root, cache)?, None)
        } else {
            let client = Client::new(&environment, progress)?;
            (Listing::request(&client, name)?, Some(client))
        };
        let index = listing.find(&name.file(INDEX)).cloned();
        let config = listing.require(name, CONFIG)?;
        let texts: Vec<_> = [config].into_iter().chain(index.clone()).collect();
        let companions = request.companions.iter().filter_map(|file| listing.find(file).cloned());
        let companions: Vec<_> = companions.collect();
        for RemoteFile { path, size, .. } in texts.iter().chain(&companions) {
            ensure!(
                *size <= LARGEST_TEXT,
                "`{path}` has {size} bytes on the hub, far too many for such a file: `{name}` is not a checkpoint"
            );
        }
        let cached = cache.and_then(|cache| CachedRepo::find(cache, name, Some(&listing.commit)));
        let folder = DownloadFolder::open(root, &name.repository)?;
        let name = name.clone();
        let downloader = Downloader { name, listing, folder, client, cached, progress };
        let missing_companions = downloader.missing(&companions)?;
        let fetched = downloader.missing(&texts)?;
        downloader.fetch(&fetched)?;

        let Downloader { name, listing, folder, .. } = &downloader;
        let shards = index.map(|_| checkpoint::shards(&folder.root.join(&name.folder)));
        let (which, weights) = listing.weights(name, shards.transpose()?.flatten())?;
        let missing_weights = downloader.missing(&weights)?;
        let header = |file: &RemoteFile| Ok((folder.path(file), downloader.header(file)?));
        let headers = missing_weights.iter().map(header).collect::<Result<_>>()?;
        let files = [texts, companions, weights].concat();
        Ok(Self { which, headers, fetched, missing_weights, missing_companions, files, downloader })
    }

    pub fn folder(&self) -> PathBuf {
        self.downloader.folder.root.join(&self.downloader.name.folder)
    }

    /// The checkpoint's name with its commit as the revision.
    pub fn source(&self) -> String {
        let Downloader { name, listing, .. } = &self.downloader;
        RepoPath { revision: listing.commit.clone(), ..name.clone() }.to_string()
    }

    pub fn fetch_companions(&mut self) -> Result<()> {
        self.downloader.fetch(&self.missing_companions)?;
        self.fetched.append(&mut self.missing_companions);
        Ok(())
    }

    pub fn fetch_all(&mut self) -> Result<()> {
        self.fetch_companions()?;
        self.downloader.fetch(&self.missing_weights)?;
        self.fetched.append(&mut self.missing_weights);
        self.headers.clear();
        let Downloader { folder, listing, .. } = &self.downloader;
        self.files.iter().try_for_each(|file| folder.write_record(file, &listing.commit))
    }
}
