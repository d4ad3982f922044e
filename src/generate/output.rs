//! What is shown of generated tokens.

use super::stream::{FinalMessage, TextStream};
use crate::error::Result;
use crate::text::Tokenizer;

/// Where generated tokens go: as text, or as ids.
pub struct Output<'t> {
    stream: Option<TextStream<'t>>,
    filter: Option<FinalMessage<'t>>,
    text: String,
    is_first: bool,
}

impl<'t> Output<'t> {
    /// A prompt may have begun the final message.
    pub fn new(tokenizer: Option<&'t Tokenizer>, final_only: bool, prompt: &[u32]) -> Result<Self> {
        let mut filter = tokenizer.filter(|_| final_only).map(FinalMessage::new).transpose()?;
        for id in prompt {
            if let Some(filter) = &mut filter {
                filter.has(*id)?;
            }
        }
        let stream = tokenizer.map(TextStream::new);
        Ok(Self { stream, filter, text: String::new(), is_first: true })
    }

    /// Shows what a token adds; whether to go on.
    pub fn show(&mut self, id: u32, show: &mut dyn FnMut(&str) -> Result<bool>) -> Result<bool> {
        if let Some(filter) = &mut self.filter
            && !filter.has(id)?
        {
            return Ok(true);
        }
        let Some(stream) = &mut self.stream else {
            let separator = if std::mem::take(&mut self.is_first) { "" } else { "," };
            return show(&format!("{separator}{id}"));
        };
        let text = stream.push(id)?;
        self.text.push_str(&text);
        if text.is_empty() { Ok(true) } else { show(&text) }
    }

    /// Shows what is left; all of the text.
    pub fn finish(self, show: &mut dyn FnMut(&str) -> Result<bool>) -> Result<Option<String>> {
        let Some(stream) = self.stream else { return Ok(None) };
        let rest = stream.rest()?;
        if !rest.is_empty() {
            show(&rest)?;
        }
        Ok(Some(self.text + &rest))
    }
}
