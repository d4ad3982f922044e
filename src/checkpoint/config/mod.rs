//! `config.json`, in whichever dialect: one file for each.

mod hugging_face;
mod openai;
mod reader;
#[cfg(test)]
mod tests;
mod values;

use crate::error::Result;
use reader::ConfigReader;
pub use values::{Config, Rope};

pub const CONFIG: &str = "config.json";
/// Longest `config.json` that is read. Released ones have 2 kB.
pub const LARGEST_CONFIG: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `ModelConfig` of OpenAI's implementation, as in `original/config.json`.
    OpenAi,
    /// `GptOssConfig` of transformers.
    HuggingFace,
}

impl Config {
    /// Parses and checks a `config.json`. Unknown keys are refused unless `ignored` names
    /// them.
    pub fn read(file: &str, text: &[u8], ignored: &[String]) -> Result<(Self, Dialect)> {
        let mut reader = ConfigReader::parse(file, text, ignored)?;
        let (config, dialect) = if reader.has("model_type") || reader.has("architectures") {
            (hugging_face::read(&mut reader)?, Dialect::HuggingFace)
        } else {
            (openai::read(&mut reader)?, Dialect::OpenAi)
        };
        config.check(file)?;
        Ok((config, dialect))
    }
}
