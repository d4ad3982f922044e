//! Tokens as text, as soon as its characters are whole.

use crate::error::{Result, err};
use crate::text::Tokenizer;

/// Most tokens that wait for the rest of a character, which has up to four bytes.
const LONGEST_CHARACTER: usize = 4;

/// The text of tokens that come one after the other.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// Tokens of the last text, on which the next may depend, and those without text yet.
    ids: Vec<u32>,
    /// How many of these have text.
    shown: usize,
}

impl<'t> TextStream<'t> {
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), shown: 0 }
    }

    /// The text that is whole with one more token; empty within a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.rest()?;
        let waits = self.ids.len() - self.shown < LONGEST_CHARACTER;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && waits {
            return Ok(String::new());
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }

    /// The text that is left, whole or not.
    pub fn rest(&self) -> Result<String> {
        if self.ids.len() == self.shown {
            return Ok(String::new());
        }
        let before = self.tokenizer.decode(&self.ids[..self.shown])?;
        let text = self.tokenizer.decode(&self.ids)?;
        // A decoder may have joined the two otherwise.
        Ok(text.strip_prefix(&*before).map_or_else(|| text.clone(), str::to_owned))
    }
}

/// Which tokens belong to the final message of an answer in harmony format:
/// `<|channel|>final<|message|>…`.
pub struct FinalMessage<'t> {
    tokenizer: &'t Tokenizer,
    special: [u32; 4],
    state: State,
}

enum State {
    Outside,
    /// Between `<|channel|>` and `<|message|>`.
    Header(Vec<u32>),
    Inside,
}

/// `<|channel|>` and `<|message|>`, then what ends a message.
const SPECIAL: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"];

impl<'t> FinalMessage<'t> {
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        let id = |name| {
            tokenizer.id(name).ok_or_else(|| {
                err!("the tokenizer has no token `{name}`, so answers have no final message: ask for all of the text")
            })
        };
        let [channel, message, start, end] = SPECIAL.map(id);
        let special = [channel?, message?, start?, end?];
        Ok(Self { tokenizer, special, state: State::Outside })
    }

    /// Whether the next token belongs to it.
    pub fn has(&mut self, id: u32) -> Result<bool> {
        let [channel, message, ..] = self.special;
        let is_special = self.special.contains(&id);
        self.state = match std::mem::replace(&mut self.state, State::Outside) {
            _ if id == channel => State::Header(Vec::new()),
            State::Header(header) if id == message => {
                let name = self.tokenizer.decode(&header)?;
                let is_final = name.split_whitespace().next() == Some("final");
                if is_final { State::Inside } else { State::Outside }
            }
            _ if is_special => State::Outside,
            State::Header(mut header) => {
                header.push(id);
                State::Header(header)
            }
            state => state,
        };
        Ok(matches!(self.state, State::Inside) && !is_special)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::open(Path::new("tests/fixtures/trained/tokenizer.json"), 1024).unwrap()
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = tokenizer();
        for text in ["And God é€😀 x\u{301}", "日本語 text", "😀", "\u{fffd} b"] {
            let mut stream = TextStream::new(&tokenizer);
            let ids = tokenizer.encode(text, false).unwrap();
            let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
            pieces.push(stream.rest().unwrap());
            assert_eq!(pieces.concat(), text);
            let is_broken =
                |piece: &String| piece.contains('\u{fffd}') && !text.contains('\u{fffd}');
            assert!(!pieces.iter().any(is_broken), "{pieces:?}");
        }
        // Bytes that never become a character are shown as such, and what follows them too.
        let bytes = tokenizer.encode("é", false).unwrap();
        assert_eq!(bytes.len(), 2);
        let mut stream = TextStream::new(&tokenizer);
        let mut shown: String = (0..9).map(|_| stream.push(bytes[1]).unwrap()).collect();
        for id in tokenizer.encode(" end", false).unwrap() {
            shown.push_str(&stream.push(id).unwrap());
        }
        shown.push_str(&stream.push(bytes[0]).unwrap());
        shown.push_str(&stream.rest().unwrap());
        assert_eq!(shown, format!("{} end\u{fffd}", "\u{fffd}".repeat(9)));
    }
}
