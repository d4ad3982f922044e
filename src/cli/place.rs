//! Where an option's value is: on this machine or on the hub.

use std::path::Path;

use anyhow::{Result, bail};
use gpt_oss_export::export::{RepoPath, did_you_mean};

/// A path or a name, as it was typed.
pub struct Place<'a> {
    pub path: &'a Path,
    pub option: &'a str,
    /// Another option that only repositories have.
    pub for_hub: Option<&'a str>,
    pub offline: bool,
}

impl Place<'_> {
    /// `hf:owner/name` and addresses are on the hub; `owner/name` too, unless a local path may have
    /// been meant: a mistyped one is sent nowhere. A local folder that `is_target` of a download
    /// is none that was meant.
    pub fn on_hub(&self, is_target: impl Fn(&RepoPath) -> bool) -> Result<Option<RepoPath>> {
        let Self { path, option, .. } = *self;
        let text = path.to_str().unwrap_or_default();
        // A dangling link counts as existing.
        let there = path.symlink_metadata().is_ok();
        let address = RepoPath::from_address(text).filter(|_| !there);
        if address.is_none() && !there && (text.contains("://") || text.starts_with("git@")) {
            bail!(
                "`{text}` is not the address of a repository on the Hugging Face hub: pass such an address, owner/name, or the folder into which you downloaded it"
            );
        }
        let named = text.strip_prefix("hf:").filter(|_| address.is_none());
        let is_certain = named.is_some() || address.is_some();
        let for_hub = if is_certain { Some("hf:") } else { self.for_hub };
        let exists = there && !is_certain;
        let name = address
            .or_else(|| named.map_or_else(|| RepoPath::parse(text), RepoPath::parse_certain));
        let Some(name) = name.filter(|name| !exists || is_target(name)) else {
            let Some(for_hub) = for_hub else { return Ok(None) };
            bail!(
                "{for_hub} is for repositories on the hub (owner/name), and `{}` is {}",
                path.display(),
                if exists { "a local path" } else { "not such a name" }
            );
        };
        let local = Path::new(&name.repository);
        if for_hub.is_none()
            && !self.offline
            && local.parent().is_some_and(|it| it.symlink_metadata().is_ok())
        {
            let similar = did_you_mean(local);
            bail!(
                "there is no folder `{text}`{similar}; for the repository on the hub, pass {option} hf:{name}"
            );
        }
        Ok(Some(name))
    }
}
