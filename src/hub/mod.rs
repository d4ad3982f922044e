//! Checkpoints on the Hugging Face hub: which files are needed, and their download.
//!
//! Environment variables, the cache and the metadata of downloads are those of Hugging Face's
//! own tools, so what one of them has downloaded is not downloaded again.

mod cache;
mod download;
mod environment;
mod folder;
mod http;
mod listing;
mod repo_path;

use std::path::{Path, PathBuf};

use hf_hub::Cache;
pub use listing::{HubFolder, RemoteFile};
pub use repo_path::RepoPath;

use crate::checkpoint::{self, CONFIG, Headers, INDEX};
use crate::error::{Error, Result, Setting, bail, ensure};
use crate::onnx;
use crate::progress::Progress;
use cache::list_offline;
use download::Downloader;
use environment::Environment;
use http::Client;
use listing::Listing;

/// The largest config, index or tokenizer file.
const LARGEST_TEXT: u64 = 256 << 20;

/// Refuses a path where nothing is, which may be misspelt or a name on the hub.
pub fn require_path(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let similar = checkpoint::did_you_mean(path);
    let text = path.to_str().unwrap_or_default();
    let on_hub = RepoPath::from_address(text)
        .or_else(|| RepoPath::parse(text.strip_prefix("hf:").unwrap_or(text)))
        .filter(|_| !checkpoint::is_safetensors(path) && !onnx::has_extension(path))
        .map_or("", |_| {
            "; only an export reads repositories on the hub: choose the folder into which it downloads them"
        });
    bail!("there is nothing at `{}`{similar}{on_hub}", path.display())
}

impl HubFolder<'_> {
    /// Fetches these files of the folder, whole; the name with its commit as the revision.
    pub fn fetch(self, files: &[&str], progress: &dyn Progress) -> Result<String> {
        let (listing, client, cache) = self.list(progress)?;
        let files = files.iter().map(|file| listing.require(file)).collect::<Result<Vec<_>>>()?;
        let downloader = Downloader::open(self, listing, client, cache, progress)?;
        downloader.fetch(&downloader.missing(&files)?)?;
        downloader.finish(&files)?;
        Ok(downloader.source_name())
    }

    /// The files of the repository, by a request unless these are forbidden.
    fn list(self, progress: &dyn Progress) -> Result<(Listing, Option<Client<'_>>, Option<Cache>)> {
        let mut environment = Environment::read()?;
        let cache = environment.cache.take();
        let forbidden = if self.offline { Some("offline mode") } else { environment.offline };
        if let Some(by) = forbidden {
            return Ok((list_offline(self, cache.as_ref(), by)?, None, cache));
        }
        let client = Client::new(environment, progress)?;
        Ok((Listing::request(&client, self.name)?, Some(client), cache))
    }
}

/// A checkpoint on the hub. Its config, index and headers are known, its weights may be on
/// the hub still.
pub struct Repository<'p> {
    pub headers: Headers,
    pub fetched: Vec<RemoteFile>,
    pub missing_weights: Vec<RemoteFile>,
    /// A shard of the index that is not listed.
    unlisted: Option<String>,
    missing_companions: Vec<RemoteFile>,
    files: Vec<RemoteFile>,
    downloader: Downloader<'p>,
}

impl<'p> Repository<'p> {
    /// Fetches what tells whether a checkpoint can be exported: config, index, and headers.
    /// Companions are files of the repository's root that belong to a checkpoint in any of
    /// its folders.
    pub fn open(
        name: &RepoPath,
        root: &Path,
        companions: &[&str],
        offline: bool,
        progress: &'p dyn Progress,
    ) -> Result<Self> {
        let source =
            HubFolder { name, root, config: CONFIG, setting: Setting::Checkpoint, offline };
        let (listing, client, cache) = source.list(progress)?;
        let index = listing.find(&name.file(INDEX)).cloned();
        let has_index = index.is_some();
        let texts: Vec<_> = [listing.require(CONFIG)?].into_iter().chain(index).collect();
        let companions: Vec<_> =
            companions.iter().filter_map(|file| listing.find(file)).cloned().collect();
        for RemoteFile { path, size, .. } in texts.iter().chain(&companions) {
            ensure!(
                *size <= LARGEST_TEXT,
                "`{path}` has {size} bytes on the hub, far too many for such a file: `{name}` is not a checkpoint, choose another repository"
            );
        }
        let downloader = Downloader::open(source, listing, client, cache, progress)?;
        let missing_companions = downloader.missing(&companions)?;
        let fetched = downloader.missing(&texts)?;
        downloader.fetch(&fetched)?;

        let index = if has_index { checkpoint::read_index(&name.folder_in(root))? } else { None };
        let is_own = |file: &RemoteFile| {
            downloader.header(file).is_ok_and(|header| header.metadata.is_some())
        };
        let weights = downloader.listing.weights(index.as_ref(), is_own)?;
        let mut shards = index.iter().flat_map(|index| index.values()).map(|file| name.file(file));
        let unlisted = shards.find(|shard| downloader.listing.find(shard).is_none());
        let missing_weights = downloader.missing(&weights)?;
        let header =
            |file: &RemoteFile| Ok((downloader.folder.path(file), downloader.header(file)?));
        let headers = missing_weights.iter().map(header).collect::<Result<_>>()?;
        downloader.refuse_strangers(&headers, has_index)?;
        let files = [texts, companions, weights].concat();
        Ok(Self {
            headers,
            fetched,
            missing_weights,
            unlisted,
            missing_companions,
            files,
            downloader,
        })
    }

    pub fn root(&self) -> &Path {
        &self.downloader.folder.root
    }

    /// The checkpoint's folder.
    pub fn folder(&self) -> PathBuf {
        self.downloader.listing.name.folder_in(self.root())
    }

    /// The checkpoint's name with its commit as the revision.
    pub fn source(&self) -> String {
        self.downloader.source_name()
    }

    /// The error of a checkpoint, whose shards may be missing because requests are forbidden.
    pub fn explain(&self, error: Error) -> Error {
        let Listing { name, offline, .. } = &self.downloader.listing;
        match (offline, &self.unlisted) {
            (Some(offline), Some(shard)) => offline.missing(name, shard).with_source(error),
            _ => error,
        }
    }

    /// Fetches the companions and, unless headers are enough, the weights files that are needed.
    pub fn fetch(&mut self, headers_only: bool, is_needed: impl Fn(&Path) -> bool) -> Result<()> {
        let mut files = std::mem::take(&mut self.missing_companions);
        self.missing_weights.retain(|file| is_needed(&self.downloader.folder.path(file)));
        if !headers_only {
            files.append(&mut self.missing_weights);
            self.headers.retain(|path, _| !is_needed(path));
        }
        self.downloader.fetch(&files)?;
        self.fetched.append(&mut files);
        if headers_only || !self.headers.is_empty() {
            return Ok(());
        }
        self.downloader.finish(&self.files)
    }
}
