//! Texts of others with some bytes changed: an error or something in order, never a
//! panic. `tests/fuzz` asks the same, led by coverage.

use std::fs;
use std::path::Path;

use gpt_oss_export::checkpoint::{Checkpoint, Config, INDEX, shards};
use gpt_oss_export::container::Header;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{export, fixture, text};

/// One change: at which place, of how many bytes, into what.
type Change = (prop::sample::Index, usize, Vec<u8>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let made = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        // What such texts are made of.
        prop::sample::select(
            [
                "0",
                "-1",
                "1e999",
                "null",
                "true",
                "[]",
                "{}",
                "\"",
                ",",
                ":",
                "18446744073709551615",
                "\\u0000"
            ]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
        ),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, made), 1..6)
}

fn changed(text: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut text = text.to_vec();
    for (place, removed, made) in changes {
        let start = place.index(text.len() + 1);
        let end = (start + removed).min(text.len());
        text.splice(start..end, made.iter().copied());
    }
    text
}

fn header_of(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8..8 + length].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn headers(changes in changes(), data in any::<u32>()) {
        let path = fixture("tiny/model.safetensors");
        let whole = fs::metadata(&path).unwrap().len();
        let (original, path) = (header_of(&path), Path::new("x.safetensors"));
        let text = changed(&original, &changes);
        let grown = (whole + text.len() as u64) - original.len() as u64;
        for length in [grown, data.into()] {
            let Ok(header) = Header::parse(path, &text, length) else { continue };
            for tensor in header.tensors {
                prop_assert!(tensor.data.range.end <= length);
                prop_assert_eq!(tensor.dtype.bytes(&tensor.shape), Some(tensor.data.len()));
            }
        }
    }

    #[test]
    fn configs(changes in changes(), openai: bool) {
        let name = if openai { "tiny/config.json" } else { "tiny-hf/config.json" };
        let text = changed(&fs::read(fixture(name)).unwrap(), &changes);
        if let Ok((config, _)) = Config::read("config.json", &text, &[]) {
            prop_assert!(config.check("config.json").is_ok());
            let [low, high] = config.rope.bounds(config.head_dim);
            prop_assert!(low.is_finite() && high.is_finite());
        }
    }

    #[test]
    fn indices(changes in changes()) {
        let home = tempfile::tempdir().unwrap();
        let map = json!({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"}});
        let text = changed(map.to_string().as_bytes(), &changes);
        fs::write(home.path().join(INDEX), text).unwrap();
        for shard in shards(home.path()).ok().flatten().unwrap_or_default() {
            prop_assert_eq!(Path::new(&shard).file_name(), Some(shard.as_ref()));
        }
    }

    /// What a staged file says of itself; its tensors stay as they are.
    #[test]
    fn metadata(changes in changes()) {
        let home = tempfile::tempdir().unwrap();
        let staged = staged();
        let length = u64::from_le_bytes(staged[..8].try_into().unwrap()) as usize;
        let (header, data) = staged[8..].split_at(length);
        let mut header: Value = serde_json::from_slice(header).unwrap();
        let said = &mut header["__metadata__"]["gpt_oss_export"];
        let text = changed(said.as_str().unwrap().as_bytes(), &changes);
        *said = String::from_utf8_lossy(&text).into();
        let header = header.to_string();
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        let path = home.path().join("w.safetensors");
        fs::write(&path, &file).unwrap();
        if let Ok((checkpoint, said)) = Checkpoint::open_staged(&path) {
            prop_assert!(checkpoint.config.check("w").is_ok());
            // Files are named after it, and models repeat what became of numbers.
            let name = said.fingerprint.to_string();
            prop_assert!(name.len() == 12 && name.bytes().all(|c| b"0123456789abcdef".contains(&c)));
            prop_assert_eq!(said.provenances.experts.format.to_string(), "mxfp4");
            prop_assert_eq!(said.provenances.dense.format.to_string(), "bf16");
        }
    }
}

/// The bytes of a staged file.
fn staged() -> &'static [u8] {
    static STAGED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    STAGED.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("w.safetensors");
        export(&[
            "--checkpoint",
            text(&fixture("tiny")),
            "--save-weights",
            text(&path),
            "--skip-onnx",
        ]);
        fs::read(path).unwrap()
    })
}
