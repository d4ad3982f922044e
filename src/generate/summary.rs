//! What was generated, and how long it took.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::display::{Table, plural, size};
use crate::files::lossy_path;

/// Tokens that continue a prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Generated {
    /// The model.
    #[serde(serialize_with = "lossy_path")]
    pub model: PathBuf,
    /// Tokens of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens that the model made, the one that ended the text included.
    pub ids: Vec<u32>,
    /// What was shown of them, without the token that ended the text; `None` if ids were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why there are no more.
    pub ended_by: EndedBy,
    /// From the beginning of the prompt to the first token, in seconds; `None` without one.
    #[serde(rename = "seconds_to_first_token", serialize_with = "seconds")]
    pub to_first_token: Option<Duration>,
    /// From the first token to the last, in seconds; `None` without a second one.
    #[serde(rename = "seconds_of_decoding", serialize_with = "seconds")]
    pub decoding: Option<Duration>,
    /// Tokens of the prompt in a second.
    pub prompt_tokens_per_second: Option<f64>,
    /// Tokens in a second after the first.
    pub decoded_tokens_per_second: Option<f64>,
    /// The most bytes in memory at once, mapped files included; `None` if unknown.
    pub peak_rss: Option<u64>,
    /// What makes it slower, or longer, than it could be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What ended a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// A token that ends a text.
    Token,
    /// It has as many new tokens as were asked for.
    MaxNewTokens,
    /// It has as many tokens as the model takes.
    Context,
    /// The work was cancelled, or nobody reads on.
    Interruption,
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|it| it.as_secs_f64()).serialize(serializer)
}

impl Generated {
    /// Fills in the rates, from the durations.
    pub(super) fn with_rates(mut self) -> Self {
        let rate = |count: usize, duration: Option<Duration>| {
            duration.map(|it| count as f64 / it.as_secs_f64().max(1e-9))
        };
        self.prompt_tokens_per_second = rate(self.prompt_ids.len(), self.to_first_token);
        self.decoded_tokens_per_second = rate(self.ids.len().saturating_sub(1), self.decoding);
        self
    }
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate =
            |rate: Option<f64>| rate.map_or(String::new(), |it| format!(", {it:.1} tokens/s"));
        let mut table = Table::default();
        let prompt = plural(self.prompt_ids.len(), "token");
        table.row("prompt", format!("{prompt}{}", rate(self.prompt_tokens_per_second)));
        if let Some(first) = self.to_first_token {
            table.note(format!("{:.2} s to the first token", first.as_secs_f64()));
        }
        let ended = match self.ended_by {
            EndedBy::Token => "ended by the model",
            EndedBy::MaxNewTokens => "ended at the number that was asked for",
            EndedBy::Context => "ended at the model's longest text",
            EndedBy::Interruption => "interrupted",
        };
        let made = plural(self.ids.len(), "token");
        table.row("made", format!("{made}{}, {ended}", rate(self.decoded_tokens_per_second)));
        self.notes.iter().for_each(|note| table.note(note));
        if let Some(bytes) = self.peak_rss {
            table.row("memory", format!("{} at most", size(bytes)));
        }
        table.fmt(f)
    }
}
