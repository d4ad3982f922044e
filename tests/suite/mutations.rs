//! Files of others with some bytes changed: the checks that `tests/fuzz` runs led by coverage.

use std::fs;
use std::sync::LazyLock;

use crate::support::{fixture, open, split_safetensors};
use gpt_oss_export::checkpoint::Checkpoint;
use proptest::prelude::*;

#[path = "../fuzz/checks.rs"]
mod checks;

/// Replaces some bytes at a place by others.
#[derive(Clone, Debug)]
struct Change {
    place: prop::sample::Index,
    removed: usize,
    added: Vec<u8>,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // What such texts are made of.
    const TOKENS: &str = r#"0 -1 1e999 null true [] {} " , : 18446744073709551615 \u0000"#;
    let tokens: Vec<&str> = TOKENS.split(' ').collect();
    let added = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(tokens).prop_map(|token| token.as_bytes().to_vec()),
    ];
    let change = (any::<prop::sample::Index>(), 0..12_usize, added)
        .prop_map(|(place, removed, added)| Change { place, removed, added });
    prop::collection::vec(change, 1..6)
}

fn changed(text: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut text = text.to_vec();
    for Change { place, removed, added } in changes {
        let start = place.index(text.len() + 1);
        let end = (start + removed).min(text.len());
        text.splice(start..end, added.iter().copied());
    }
    text
}

static TINY: LazyLock<Checkpoint> = LazyLock::new(|| open(&fixture("tiny")));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn headers_are_refused_or_in_order(changes in changes(), length: u32) {
        let bytes = fs::read(fixture("tiny/model.safetensors")).unwrap();
        let (header, data) = split_safetensors(&bytes);
        let text = changed(header, &changes);
        checks::header(&text, (8 + text.len() + data.len()) as u64);
        checks::header(&text, length.into());
    }

    #[test]
    fn configs_are_refused_or_in_order(changes in changes(), openai: bool) {
        let name = if openai { "tiny/config.json" } else { "tiny-hf/config.json" };
        checks::config(&changed(&fs::read(fixture(name)).unwrap(), &changes));
    }

    #[test]
    fn indices_are_refused_or_in_order(changes in changes()) {
        let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"}}"#;
        checks::index(&changed(index, &changes));
    }

    #[test]
    fn metadata_is_refused_or_in_order(changes in changes()) {
        let text = changed(include_bytes!("../fuzz/corpus/metadata/tiny"), &changes);
        checks::metadata(&TINY, String::from_utf8_lossy(&text).into_owned());
    }
}
