//! The environment variables of Hugging Face's own tools.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use hf_hub::Cache;

use crate::error::{Result, bail, ensure};

/// How to reach the hub, and where its files are cached on this machine.
pub struct Environment {
    /// `HF_ENDPOINT`, without a trailing slash.
    pub endpoint: String,
    /// `HF_TOKEN`, or the token that `hf auth login` has stored.
    pub token: Option<String>,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: the longest silence of the hub.
    pub timeout: Duration,
    /// `SSL_CERT_FILE`: certificates to trust instead of Mozilla's.
    pub certificates: Option<PathBuf>,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: Option<Cache>,
    /// The one of `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE` that forbids requests.
    pub offline: Option<&'static str>,
}

impl Environment {
    pub fn read() -> Result<Self> {
        let url = variable("HF_ENDPOINT").unwrap_or("https://huggingface.co".to_owned());
        ensure!(
            url.starts_with("https://") || url.starts_with("http://"),
            "HF_ENDPOINT is {url:?}, expected a URL that begins with https:// or http://"
        );
        let text = variable("HF_HUB_DOWNLOAD_TIMEOUT").unwrap_or("10".to_owned());
        let Ok(seconds @ 1..) = text.parse::<u32>() else {
            bail!("HF_HUB_DOWNLOAD_TIMEOUT is {text:?}, expected a number of seconds")
        };
        let cache_home =
            || path("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(cache_home()?.join("huggingface")));
        let default_cache = home.map(|home| Cache::new(home.join("hub")));
        Ok(Self {
            endpoint: url.trim_end_matches('/').to_owned(),
            token: token(default_cache.as_ref())?,
            timeout: Duration::from_secs(seconds.into()),
            certificates: path("SSL_CERT_FILE"),
            cache: path("HF_HUB_CACHE").map(Cache::new).or(default_cache),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .into_iter()
                .find(|name| is_on(name)),
        })
    }
}

fn token(default_cache: Option<&Cache>) -> Result<Option<String>> {
    let stored = || {
        let file = path("HF_TOKEN_PATH").or_else(|| Some(default_cache?.token_path()))?;
        let token = std::fs::read_to_string(file).ok()?.trim().to_owned();
        (!token.is_empty() && !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")).then_some(token)
    };
    let token = variable("HF_TOKEN").or_else(stored);
    let is_printable = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
    // Not shown: it may be a secret with a typing error.
    ensure!(
        token.as_ref().is_none_or(is_printable),
        "the Hugging Face token (HF_TOKEN, or the one stored by a login) contains characters that no token has: set it again"
    );
    Ok(token)
}

/// A path that may begin with `~/`.
fn path(name: &str) -> Option<PathBuf> {
    let path = variable(name)?;
    match (path.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(path.into()),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|text| ["1", "on", "yes", "true"].contains(&&*text.to_lowercase()))
}
