//! Tokens of a text, and back.

use std::path::{Path, PathBuf};

use super::LARGEST_TEXT;
use super::components::Components;
use crate::display::{size, with_thousands};
use crate::error::{Result, ensure, err};
use crate::files::json;

/// The most bytes of a file: the released models' has 28 MB.
const LARGEST_FILE: u64 = 64 << 20;

/// What `tokenizer.json` says of texts and tokens.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
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
        let encoding = self
            .inner
            .encode_fast(text, as_sequence)
            .map_err(|error| err!("`{}` does not take the text: {error}", self.path.display()))?;
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
