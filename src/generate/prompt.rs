//! The tokens of what is to be continued.

use super::companions::Companions;
use crate::display::{listed, with_thousands};
use crate::error::{Result, ensure};
use crate::text::{Message, Tokenizer};

/// A text to continue.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// As it is, with special tokens by their names.
    Text(String),
    /// A user's message, which the chat template puts into a chat.
    Chat(String),
    /// Token ids; ids are shown too.
    Ids(Vec<u32>),
}

/// The tokens of a prompt, all of the model's vocabulary.
pub fn tokens(
    prompt: &Prompt,
    tokenizer: Option<&Tokenizer>,
    companions: &Companions,
    vocab_size: usize,
) -> Result<Vec<u32>> {
    let encode = |text: &str, is_whole| tokenizer.expect("texts have one").encode(text, is_whole);
    let ids = match prompt {
        Prompt::Text(text) => encode(text, true)?,
        Prompt::Chat(content) => {
            ensure!(!content.is_empty(), "the prompt is empty: give a text");
            let message = Message { role: "user", content };
            encode(&companions.chat_template()?.render(&[message])?, false)?
        }
        Prompt::Ids(ids) => {
            let beyond: Vec<_> = ids.iter().filter(|id| **id as usize >= vocab_size).collect();
            ensure!(
                beyond.is_empty(),
                "the model's vocabulary has {} tokens, and no {}: give ids from 0 to {}",
                with_thousands(vocab_size as u64),
                listed(beyond.into_iter()),
                vocab_size - 1
            );
            ids.clone()
        }
    };
    ensure!(!ids.is_empty(), "the prompt is empty: give a text, or token ids");
    Ok(ids)
}
