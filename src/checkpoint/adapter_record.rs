//! What models and staged weights files say of their adapters.

use std::fmt;
use std::ops::Not;

use serde::{Deserialize, Serialize};

use super::IgnoredNames;
use crate::weights::Fingerprint;

/// An adapter of which a model, or a staged weights file, has the changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterRecord {
    /// The name of its folder.
    pub name: String,
    /// Repository, commit and folder of one from the hub.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<String>,
    /// Of what it changes.
    pub fingerprint: Fingerprint,
    /// Multiplies what it adds.
    pub weight: f64,
    /// Whether it is folded into the values that it changes.
    #[serde(skip_serializing_if = "Not::not", default)]
    pub merged: bool,
    /// What was ignored of it.
    #[serde(skip_serializing_if = "IgnoredNames::is_empty", default)]
    pub ignored: IgnoredNames,
}

impl fmt::Display for AdapterRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, source, fingerprint, weight, merged, ignored } = self;
        let comma = if ignored.is_empty() { "" } else { "," };
        let apart = ignored.apart();
        let merged = if *merged { ", merged" } else { "" };
        let name = source.as_ref().unwrap_or(name);
        write!(f, "{name}{comma}{apart}, weight {weight}{merged}, fingerprint {fingerprint}")
    }
}
