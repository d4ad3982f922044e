//! What was generated, and how long it took.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

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
    /// How long it took.
    #[serde(flatten)]
    pub pace: Pace,
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

/// How long tokens took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pace {
    /// From the beginning of the prompt to the first token; `None` without one.
    pub seconds_to_first_token: Option<f64>,
    /// Tokens of the prompt in a second, until the first token.
    pub prompt_tokens_per_second: Option<f64>,
    /// Tokens in a second from the first to the last; `None` without a second one.
    pub decoded_tokens_per_second: Option<f64>,
}

/// Measures the pace.
pub struct Clock {
    start: Instant,
    /// When the first token was made, and the last; how many there were after the first.
    made: Option<([Instant; 2], usize)>,
}

impl Clock {
    pub fn start() -> Self {
        Self { start: Instant::now(), made: None }
    }

    /// A token has been made.
    pub fn tick(&mut self) {
        let now = Instant::now();
        let next = self.made.map(|([first, _], more)| ([first, now], more + 1));
        self.made = Some(next.unwrap_or(([now; 2], 0)));
    }

    /// The pace after a prompt of so many tokens.
    pub fn pace(&self, prompt: usize) -> Pace {
        let Some(([first, last], more)) = self.made else { return Pace::default() };
        let (reading, decoding) =
            ((first - self.start).as_secs_f64(), (last - first).as_secs_f64());
        Pace {
            seconds_to_first_token: Some(reading),
            prompt_tokens_per_second: Some(prompt as f64 / reading),
            decoded_tokens_per_second: (more > 0).then(|| more as f64 / decoding),
        }
    }
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate =
            |rate: Option<f64>| rate.map_or(String::new(), |it| format!(", {it:.1} tokens/s"));
        let mut table = Table::default();
        let prompt = plural(self.prompt_ids.len(), "token");
        table.row("prompt", format!("{prompt}{}", rate(self.pace.prompt_tokens_per_second)));
        if let Some(first) = self.pace.seconds_to_first_token {
            table.note(format!("{first:.2} s to the first token"));
        }
        let ended = match self.ended_by {
            EndedBy::Token => "ended by the model",
            EndedBy::MaxNewTokens => "ended at the number that was asked for",
            EndedBy::Context => "ended at the model's longest text",
            EndedBy::Interruption => "interrupted",
        };
        let made = plural(self.ids.len(), "token");
        table.row("made", format!("{made}{}, {ended}", rate(self.pace.decoded_tokens_per_second)));
        self.notes.iter().for_each(|note| table.note(note));
        if let Some(bytes) = self.peak_rss {
            table.row("memory", format!("{} at most", size(bytes)));
        }
        table.fmt(f)
    }
}
