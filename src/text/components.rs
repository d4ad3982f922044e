//! The components of a `tokenizer.json`: what each may make of a text, before it is given one.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Result, bail, ensure};

/// The components of a tokenizer; the file has more keys.
#[derive(Deserialize)]
pub struct Components {
    normalizer: Option<Component>,
    pre_tokenizer: Option<Component>,
    post_processor: Option<Component>,
    decoder: Option<Component>,
    #[serde(default)]
    model: Merges,
}

#[derive(Default, Deserialize)]
struct Merges {
    dropout: Option<f64>,
}

/// A step of one kind, or several one after the other.
#[derive(Deserialize)]
struct Component {
    #[serde(rename = "type")]
    kind: String,
    #[serde(
        default,
        alias = "normalizers",
        alias = "pretokenizers",
        alias = "processors",
        alias = "decoders"
    )]
    steps: Vec<Component>,
    /// What takes the place of something, or comes before it.
    #[serde(default, alias = "prepend")]
    content: Option<String>,
    /// What a template puts around a text, and the text itself.
    #[serde(default)]
    single: Vec<IgnoredAny>,
}

/// The most by which one component may multiply the bytes of a text: those of GPT-OSS double it, of
/// other families times 16.
const LARGEST_GROWTH: u64 = 64;

impl Components {
    /// How many times longer than a text its longest form is on the way to tokens. Refuses what
    /// may exhaust memory, or makes other tokens each time.
    pub fn growth(&self) -> Result<u64> {
        ensure!(
            self.model.dropout.is_none_or(|share| share == 0.0),
            "`dropout` leaves out merges at random, expected none: set it to null"
        );
        let steps = [&self.normalizer, &self.pre_tokenizer, &self.post_processor];
        let growth = product(steps.into_iter().flatten())?;
        let decoded = product(&self.decoder)?;
        let most = growth.max(decoded);
        ensure!(
            most <= LARGEST_GROWTH,
            "its components can make a text {most} times longer, expected at most {LARGEST_GROWTH} times: it is damaged, or made to exhaust memory"
        );
        Ok(growth)
    }
}

impl Component {
    fn growth(&self) -> Result<u64> {
        // By bytes: a byte that is replaced, or a character in another form of Unicode.
        let own = match &*self.kind {
            "Precompiled" => {
                bail!("its normalizer is a compiled table (`Precompiled`), which is not read")
            }
            "ByteLevel" | "Lowercase" => 2,
            "Metaspace" | "NFC" | "NFD" | "BertNormalizer" | "StripAccents" => 3,
            "NFKC" | "NFKD" => 11,
            _ => 1,
        };
        let content = self.content.as_ref().map_or(0, String::len) as u64;
        let own = own.max(content + 1).max(self.single.len() as u64);
        Ok(product(&self.steps)?.saturating_mul(own))
    }
}

/// By how much components, one after the other, may multiply the bytes of a text.
fn product<'c>(components: impl IntoIterator<Item = &'c Component>) -> Result<u64> {
    components.into_iter().try_fold(1, |all: u64, it| Ok(all.saturating_mul(it.growth()?)))
}
