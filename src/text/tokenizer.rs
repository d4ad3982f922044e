//! Tokens of a text, and back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::LARGEST_TEXT;
use super::components::Components;
use crate::background::with_timeout;
use crate::display::{size, with_thousands};
use crate::error::{Result, ensure, err};
use crate::files::json;

/// The most bytes of a file: the released models' has 28 MB.
const LARGEST_FILE: u64 = 64 << 20;
/// How long any text may take, and how many bytes of one may take a second more: a tenth of what is
/// usual. Patterns of hostile files backtrack for hours.
const LONGEST_ENCODING: Duration = Duration::from_secs(5);
const BYTES_PER_SECOND: u64 = 100_000;

/// What `tokenizer.json` says of texts and tokens.
pub struct Tokenizer {
    path: PathBuf,
    inner: Arc<tokenizers::Tokenizer>,
    /// The most bytes of a text that fit [`LARGEST_TEXT`] on the way to tokens.
    longest: u64,
}

impl Tokenizer {
    /// The name of the file in a folder.
    pub const FILE: &str = "tokenizer.json";

    /// Reads the file for a model whose token ids are below `vocab_size`.
    pub fn open(path: &Path, vocab_size: usize) -> Result<Self> {
        let (shown, text) = (path.display(), json::read(path, LARGEST_FILE)?);
        let components: Components = json::parse(&shown, &text)?;
        let growth = components.growth().map_err(|error| err!("`{shown}`: {error}"))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&text).map_err(|error| {
            err!("`{shown}` is no tokenizer: {error}; correct it, or download it again")
        })?;
        // These are for training; a text is what it is.
        inner.with_padding(None).with_truncation(None).expect("nothing to truncate to");
        let largest = inner.get_vocab(true).into_values().max();
        let largest = largest
            .ok_or_else(|| err!("`{shown}` has no tokens: it is damaged; download it again"))?;
        ensure!(
            (largest as usize) < vocab_size,
            "`{shown}` has ids up to {}, and the model's end at {}: put this model's tokenizer in its place, or, if tokens were added to it, resize the model's embeddings",
            with_thousands(largest.into()),
            with_thousands((vocab_size as u64).saturating_sub(1))
        );
        let inner = Arc::new(inner);
        Ok(Self { path: path.to_owned(), inner, longest: LARGEST_TEXT / growth })
    }

    /// The tokens of a text in which special tokens are written by their names. `as_sequence` adds
    /// what the tokenizer puts around a whole text, such as a token that begins it.
    pub fn encode(&self, text: &str, as_sequence: bool) -> Result<Vec<u32>> {
        let (bytes, most) = (text.len() as u64, self.longest);
        ensure!(
            bytes <= most,
            "a text of {} is too long, expected at most {}: give a part of it",
            size(bytes),
            size(most)
        );
        let limit = LONGEST_ENCODING + Duration::from_secs(bytes / BYTES_PER_SECOND);
        let (inner, text) = (Arc::clone(&self.inner), text.to_owned());
        let encoded = with_timeout(limit, move || inner.encode_fast(text, as_sequence))?;
        let shown = self.path.display();
        let encoded = encoded.ok_or_else(|| {
            err!(
                "`{shown}` takes longer than {} s to split a text of {} into tokens: correct its patterns, or download it again",
                limit.as_secs(),
                size(bytes)
            )
        })?;
        let encoding =
            encoded.map_err(|error| err!("`{shown}` does not take the text: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, special ones by their names. Bytes that are no character become `U+FFFD`.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let shown = self.path.display();
        if let Some(id) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(err!(
                "`{shown}` has no token {id}, which the model made: it is another model's; put this model's in its place"
            ));
        }
        let text = self.inner.decode(ids, false);
        text.map_err(|error| err!("`{shown}` cannot decode tokens: {error}"))
    }

    /// The id of the token with this name.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}
