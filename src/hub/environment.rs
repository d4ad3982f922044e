//! What the environment says about the hub, under the names that Hugging Face's
//! own tools read.

use std::env;
use std::path::PathBuf;
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
    pub patience: Duration,
    /// `SSL_CERT_FILE`: certificates to trust in place of Mozilla's.
    pub certificates: Option<PathBuf>,
    /// Hugging Face's cache: below `HF_HUB_CACHE` or `HF_HOME`, or in the home folder.
    pub cache: Option<Cache>,
    /// `HF_HUB_OFFLINE`.
    pub offline: bool,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Result<Self> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUGGING_FACE.to_owned());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Variable {
                name: "HF_ENDPOINT",
                expected: "an address that begins with https:// or http://",
                found: endpoint,
            });
        }
        let patience = match variable("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => PATIENCE,
            Some(text) => match text.parse::<u32>() {
                Ok(seconds @ 1..) => Duration::from_secs(seconds.into()),
                _ => {
                    return Err(Error::Variable {
                        name: "HF_HUB_DOWNLOAD_TIMEOUT",
                        expected: "a number of seconds",
                        found: text,
                    });
                }
            },
        };
        let cache = cache();
        let stored = || cache.as_ref().and_then(Cache::token);
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN").or_else(stored),
            patience,
            certificates: variable("SSL_CERT_FILE").map(PathBuf::from),
            cache,
            offline: variable("HF_HUB_OFFLINE").is_some_and(|text| is_true(&text)),
        })
    }
}

fn cache() -> Option<Cache> {
    if let Some(path) = variable("HF_HUB_CACHE") {
        return Some(Cache::new(path.into()));
    }
    // hf-hub takes it for granted that there is a home.
    let known = env::var_os("HF_HOME").is_some() || env::home_dir().is_some();
    known.then(Cache::from_env)
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn is_true(text: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&&*text.to_lowercase())
}
