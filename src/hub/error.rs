//! Why a checkpoint does not come from the hub.

use std::path::PathBuf;

use super::Name;
use crate::checkpoint;

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Checkpoint(#[from] crate::error::Error),
    #[error("{name} is {found:?}, and should be {expected}")]
    Variable { name: &'static str, expected: &'static str, found: String },
    #[error(
        "the token for the hub (HF_TOKEN, or what a login has stored) holds characters that no token has: set it anew"
    )]
    Token,
    #[error("`{}`, which SSL_CERT_FILE names, holds no certificates", .0.display())]
    Certificates(PathBuf),
    #[error(
        "there is no folder `{name}` here and no such repository on the hub ({host} answers 404)"
    )]
    Nowhere { name: String, host: String },
    #[error("`{repository}` has no revision `{revision}` on the hub")]
    Revision { repository: String, revision: String },
    #[error(
        "there is no folder `{name}` here, and the hub shows no such repository to {} ({host} answers 401): check the name, or set HF_TOKEN to a token that may read it",
        if *token { "the owner of this token" } else { "those without a token" }
    )]
    Unauthorized { name: String, host: String, token: bool },
    #[error(
        "`{repository}` is not open to all ({said}): accept its terms on its page on the hub, and set HF_TOKEN to a token of that account"
    )]
    Gated { repository: String, said: String },
    #[error("`{address}` answers {status}{}", message.as_ref().map_or_else(String::new, |text| format!(": {text}")))]
    Refused { address: String, status: u16, code: Option<String>, message: Option<String> },
    #[error(
        "`{address}` is not to be trusted: {reason}; certificates of a network of your own can be named in SSL_CERT_FILE"
    )]
    Untrusted { address: String, reason: String },
    #[error("cannot ask for `{address}`: {reason}")]
    Request { address: String, reason: String },
    #[error(
        "`{address}` failed {failures} times in a row, the last time because of {what}; what has arrived of files is kept, and the same command goes on from there"
    )]
    GaveUp { address: String, what: String, failures: u32 },
    #[error("`{address}` gives no list of files that can be read: {reason}")]
    Listing { address: String, reason: String },
    #[error("`{name}` has no {wanted} at commit {commit}{}", instead.as_ref().map_or_else(String::new, |text| format!("; it has {text}")))]
    Lacks { name: String, commit: String, wanted: String, instead: Option<String> },
    #[error(
        "`{name}` holds {count} .safetensors files and no {} that says which to use",
        checkpoint::INDEX
    )]
    Ambiguous { name: String, count: usize },
    #[error(
        "`{name}` holds both {} and a {} that names other files, and programs differ in which they read: download the right ones into a folder",
        checkpoint::SINGLE_FILE,
        checkpoint::INDEX
    )]
    TwoCheckpoints { name: String },
    #[error("the index of `{name}` names the shard {shard:?}, which is not in the repository")]
    NoShard { name: String, shard: String },
    #[error(
        "the hub is not to be asked (--offline or HF_HUB_OFFLINE), and `{file}` of `{name}` is neither in the folder for it nor in Hugging Face's cache"
    )]
    Offline { name: String, file: String },
    #[error(
        "--headers-only reads from the hub, which is not to be asked (--offline or HF_HUB_OFFLINE)"
    )]
    OfflineHeaders,
    #[error(
        "`{}` is another file than `{file}` of the commit that was asked for{}: name another --download-dir, or move it away",
        path.display(),
        commit.as_ref().map_or_else(String::new, |commit| format!(" (it is of {commit}: to stay with that, put @{commit} behind the repository's name, and --download-dir {})", folder.display()))
    )]
    Differs { path: PathBuf, file: String, commit: Option<String>, folder: PathBuf },
    #[error(
        "`{file}` of `{repository}` arrived twice with the digest {found}, and the hub says {wanted}: the network or the hub changes its bytes, so nothing of it was kept"
    )]
    Damaged { repository: String, file: String, wanted: String, found: String },
    #[error("`{}` holds files of `{holds}`: name another --download-dir", folder.display())]
    AnotherRepository { folder: PathBuf, holds: String },
    #[error(
        "`{file}` has {size} bytes on the hub, far too many for what it is called: this is no checkpoint"
    )]
    TooLarge { file: String, size: u64 },
    #[error("another export is downloading into `{}`: wait for it, or name another --download-dir", .0.display())]
    Locked(PathBuf),
    #[error("interrupted; what has arrived is kept, and the same command goes on from there")]
    Interrupted,
}

/// The result of something with the hub.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What an answer means when a repository was asked for.
    pub(super) fn of_repository(self, name: &Name, token: bool) -> Self {
        let Self::Refused { address, status, code, message } = self else { return self };
        let host = || address.split('/').take(3).collect::<Vec<_>>().join("/");
        let Name { repository, revision, .. } = name.clone();
        match (status, code.as_deref()) {
            (401 | 403, Some("GatedRepo")) => Self::gated(repository, status, message),
            (401, _) => Self::Unauthorized { name: name.to_string(), host: host(), token },
            (404, Some("RevisionNotFound")) => Self::Revision { repository, revision },
            (404, None | Some("RepoNotFound")) => {
                Self::Nowhere { name: name.to_string(), host: host() }
            }
            _ => Self::Refused { address, status, code, message },
        }
    }

    /// What an answer means when a file was asked for, after the repository answered.
    pub(super) fn of_file(self, name: &Name) -> Self {
        match self {
            Self::Refused { status: status @ (401 | 403), message, .. } => {
                Self::gated(name.repository.clone(), status, message)
            }
            error => error,
        }
    }

    fn gated(repository: String, status: u16, message: Option<String>) -> Self {
        Self::Gated { repository, said: message.unwrap_or_else(|| format!("it answers {status}")) }
    }
}
