//! What the environment says about the hub, under the names that Hugging Face's
//! own tools read.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;

use super::{Error, Result};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const HUGGING_FACE: &str = "https://huggingface.co";
/// How long the hub may be silent, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to reach the hub, and what of it is on this machine.
pub struct Environment {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, or what `hf auth login` has stored.
    pub token: Option<String>,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds: how long the hub may be silent.
    pub silence: Duration,
    /// `SSL_CERT_FILE`: certificates to trust in place of Mozilla's.
    pub certificates: Option<PathBuf>,
    /// Hugging Face's cache: `HF_HUB_CACHE`, or `hub` in its home.
    pub cache: Option<Cache>,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    pub offline: bool,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Result<Self> {
        let home = hugging_face_home();
        let cache = variable("HF_HUB_CACHE").map(|path| expanded(&path));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        Ok(Self {
            endpoint: endpoint()?,
            token: token(home.as_deref())?,
            silence: silence()?,
            certificates: variable("SSL_CERT_FILE").map(PathBuf::from),
            cache: cache.map(Cache::new),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
        })
    }
}

/// `HF_HOME`, or where it is by default.
fn hugging_face_home() -> Option<PathBuf> {
    let caches = || match variable("XDG_CACHE_HOME") {
        Some(path) => Some(expanded(&path)),
        None => Some(env::home_dir()?.join(".cache")),
    };
    match variable("HF_HOME") {
        Some(path) => Some(expanded(&path)),
        None => Some(caches()?.join("huggingface")),
    }
}

fn endpoint() -> Result<String> {
    let found = variable("HF_ENDPOINT").unwrap_or_else(|| HUGGING_FACE.to_owned());
    if found.starts_with("https://") || found.starts_with("http://") {
        return Ok(found.trim_end_matches('/').to_owned());
    }
    let expected = "an address that begins with https:// or http://";
    Err(Error::Variable { name: "HF_ENDPOINT", expected, found })
}

fn token(home: Option<&Path>) -> Result<Option<String>> {
    let stored = || {
        let path = variable("HF_TOKEN_PATH").map(|path| expanded(&path));
        let text = std::fs::read_to_string(path.or_else(|| Some(home?.join("token")))?).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let token = match variable("HF_TOKEN") {
        None if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
        found => found.or_else(stored),
    };
    match token.as_ref().is_none_or(|token| token.bytes().all(|byte| byte.is_ascii_graphic())) {
        true => Ok(token),
        // Not shown: it may be a secret with a slip.
        false => Err(Error::Token),
    }
}

fn silence() -> Result<Duration> {
    let Some(found) = variable("HF_HUB_DOWNLOAD_TIMEOUT") else { return Ok(PATIENCE) };
    match found.parse::<u32>() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds.into())),
        _ => {
            let (name, expected) = ("HF_HUB_DOWNLOAD_TIMEOUT", "a number of seconds");
            Err(Error::Variable { name, expected, found })
        }
    }
}

/// A path that may begin in the home folder.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|text| ["1", "on", "yes", "true"].contains(&&*text.to_lowercase()))
}
