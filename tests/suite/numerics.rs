//! Logits in real runtimes against those of OpenAI's implementation in f32.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::support::{copy_folder, export, fixture, logit_errors, python, reference, text};
use crate::verify::passes;

const CASES: [&str; 3] = ["2x40", "1x300", "1x4500"];
/// Two short cases, and the end of one beyond the context before YaRN's
/// stretching, where f32 angles themselves are coarser.
const BOUNDS: [f64; 3] = [1e-5, 1e-5, 1e-4];

/// Every way to write one model: its name, and the options for it.
const WAYS: [(&str, &[&str]); 4] = [
    ("flat", &["--external-data", "in-place"]),
    ("functions", &["--external-data", "in-place", "--functions"]),
    ("copied", &["--external-data", "copy"]),
    ("copied-functions", &["--external-data", "copy", "--functions"]),
];

/// Exports the checkpoint in `checkpoint` of this folder in one way.
fn exported(home: &Path, way: (&str, &[&str])) -> std::path::PathBuf {
    let model = home.join(format!("{}.onnx", way.0));
    let checkpoint = home.join("checkpoint");
    let base = ["--checkpoint", text(&checkpoint), "--output", text(&model)];
    export(&[&base[..], way.1].concat());
    model
}

fn home_of(checkpoint: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture(checkpoint), &home.path().join("checkpoint"));
    home
}

#[test]
fn every_way_is_exact() {
    let home = home_of("tiny");
    for way in WAYS {
        let errors = logit_errors(&exported(home.path(), way), "onnxruntime", &CASES);
        for ((case, error), bound) in CASES.iter().zip(errors).zip(BOUNDS) {
            assert!(error <= bound, "{}: {case} is off by {error:e}", way.0);
        }
    }
}

/// One head a key, one expert a token, five experts; one key head for all,
/// every expert for each token, a single layer; sizes of their own.
#[test]
fn models_of_other_shapes_are_exact() {
    for name in ["tiny-3-heads", "tiny-1-kv"] {
        let home = home_of(name);
        for way in WAYS {
            let error = logit_errors(&exported(home.path(), way), "onnxruntime", &[name])[0];
            assert!(error <= 1e-5, "{name}, {}: {error:e}", way.0);
        }
    }
}

/// The same model as another program has written it in Hugging Face's layout.
#[test]
fn a_checkpoint_made_elsewhere_is_exact() {
    let home = home_of("tiny-hf");
    for way in WAYS.into_iter().chain([("ort", &["--target", "ort"][..])]) {
        let error = logit_errors(&exported(home.path(), way), "onnxruntime", &["2x40"])[0];
        assert!(error <= 1e-5, "{}: {error:e}", way.0);
    }
}

#[test]
fn the_reference_evaluator_agrees_too() {
    let home = home_of("tiny");
    for way in &WAYS[..2] {
        let error = logit_errors(&exported(home.path(), *way), "reference", &["2x40"])[0];
        assert!(error <= 1e-5, "{}: {error:e}", way.0);
    }
}

#[test]
fn one_file_serves_every_batch_and_length() {
    let home = home_of("tiny");
    let models = WAYS.map(|way| exported(home.path(), way));
    // Window 8: below, at and beyond it; a single token takes another path.
    let shapes =
        [[1, 1], [1, 2], [1, 7], [1, 8], [1, 9], [3, 1], [3, 20], [2, 33], [1, 130], [2, 257]];
    let references = [reference("2x40"), reference("1x300")];
    let worst = python(
        "prefixes.py",
        &[],
        &json!({"models": models, "shapes": shapes, "references": references}),
    );
    assert!(worst.as_f64().unwrap() <= 1e-5, "{worst}");
}

#[test]
fn fixed_axes_compute_the_same() {
    let home = home_of("tiny");
    for (batch, length) in [(1, 1), (2, 12), (3, 1), (1, 40)] {
        let (b, t) = (batch.to_string(), length.to_string());
        let models: Vec<_> = [
            &["--batch-size", &b, "--seq-len", &t][..],
            &["--batch-size", &b, "--functions"],
            &["--seq-len", &t],
        ]
        .into_iter()
        .enumerate()
        .map(|(n, options)| exported(home.path(), (&n.to_string(), options)))
        .collect();
        let request = json!({"models": models, "shapes": [[batch, length]], "references": [reference("2x40")]});
        let worst = python("prefixes.py", &[], &request);
        assert!(worst.as_f64().unwrap() <= 1e-5, "{batch}×{length}: {worst}");
    }
}

/// Rewrites every tensor of a checkpoint's file.
fn rewrite(folder: &Path, edit: impl Fn(&str, &TensorView) -> (Dtype, Vec<usize>, Vec<u8>)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let edited: Vec<_> =
        whole.iter().map(|(name, view)| (name.to_owned(), edit(name, &view))).collect();
    let views = edited.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn same(view: &TensorView) -> (Dtype, Vec<usize>, Vec<u8>) {
    (view.dtype(), view.shape().to_vec(), view.data().to_vec())
}

/// A BF16 number is the upper half of an F32 one.
#[test]
fn dense_weights_may_be_f32_and_scales_f8_e8m0() {
    let home = home_of("tiny");
    rewrite(&home.path().join("checkpoint"), |name, view| match view.dtype() {
        // Some of each, so that layers differ.
        Dtype::BF16 if !name.contains("block.1.") => {
            let wide = view.data().chunks(2).flat_map(|half| [0, 0, half[0], half[1]]).collect();
            (Dtype::F32, view.shape().to_vec(), wide)
        }
        Dtype::U8 if name.ends_with("scales") => {
            (Dtype::F8_E8M0, view.shape().to_vec(), view.data().to_vec())
        }
        _ => same(view),
    });
    for way in WAYS {
        let error = logit_errors(&exported(home.path(), way), "onnxruntime", &["2x40"])[0];
        assert!(error <= 1e-5, "{}: {error:e}", way.0);
    }
    // What is staged of some layers is in the formats of these alone.
    let (checkpoint, staged) = (home.path().join("checkpoint"), home.path().join("w.safetensors"));
    let base = ["--checkpoint", text(&checkpoint), "--save-weights", text(&staged)];
    for layers in ["1", "2"] {
        let _ = fs::remove_file(&staged);
        export(&[&base[..], &["--skip-onnx", "--layers", layers]].concat());
        let model = home.path().join("staged.onnx");
        export(&["--weights", text(&staged), "--output", text(&model)]);
        export(&["--weights", text(&staged), "--output", text(&model), "--layers", "1"]);
    }
}

/// A sink of −∞ is none, and a large one takes all of the attention: the reference has both
/// by their definition, and `verify` holds models to it.
#[test]
fn sinks_of_any_size_are_exact() {
    let home = home_of("tiny");
    let checkpoint = home.path().join("checkpoint");
    rewrite(&checkpoint, |name, view| match name.ends_with("sinks") {
        true => {
            let mut bytes = view.data().to_vec();
            // BF16: −∞, and 2¹²⁷, which F16 does not have.
            bytes[..4].copy_from_slice(&[0x80, 0xff, 0x00, 0x7f]);
            (view.dtype(), view.shape().to_vec(), bytes)
        }
        false => same(view),
    });
    let ways: [(&[&str], &[&str]); 5] = [
        (&[], &[]),
        (&["--functions", "--kv-cache"], &[]),
        (&["--target", "ort"], &[]),
        // Not exact, but numbers.
        (&["--compute", "f16"], &["--tolerance", "1"]),
        (&["--compute", "f16", "--target", "ort"], &["--tolerance", "1"]),
    ];
    for way in ways {
        let model = exported(home.path(), ("model", way.0));
        passes(&model, &checkpoint, way.1);
    }
}

/// A vocabulary whose lm_head is cast in parts. Its file is empty but for the
/// tiny model's own rows, at the beginning and end of parts.
#[test]
fn a_large_vocabulary_is_exact_in_parts() {
    const VOCABULARY: usize = 1_500_000;
    const PART: usize = 300_000;
    const REPEATS: [usize; 5] = [0, PART - 320, PART, 3 * PART - 100, VOCABULARY - 320];
    let home = home_of("tiny");
    let folder = home.path().join("checkpoint");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let larger = config.replace("\"vocab_size\": 320", &format!("\"vocab_size\": {VOCABULARY}"));
    fs::write(folder.join("config.json"), larger).unwrap();
    enlarge(&folder.join("model.safetensors"), |name| match name {
        "embedding.weight" => Some((VOCABULARY, &[0])),
        "unembedding.weight" => Some((VOCABULARY, &REPEATS)),
        _ => None,
    });
    for target in ["onnx", "ort"] {
        let model = exported(home.path(), (target, &["--target", target]));
        let seen = python("check.py", &[text(&model), "--structure-only"], &json!(null));
        let stored = seen["external"].as_array().unwrap().iter();
        let parts = stored.filter(|t| t["name"].as_str().unwrap().starts_with("lm_head"));
        assert!(parts.clone().all(|part| part["dims"] == json!([PART, 96])), "{seen}");
        assert_eq!(parts.count(), VOCABULARY / PART);
        let mut case = reference("2x40");
        case["length"] = json!(3);
        case["repeats"] = json!(REPEATS);
        let request = json!({"model": model, "engine": "onnxruntime", "cases": [case]});
        let found = python("logits.py", &[], &request);
        assert!(found[0]["error"].as_f64().unwrap() <= 1e-5, "{target}: {found}");
    }
}

/// Rewrites a file with matrices of more rows: holes, except where the old rows
/// are to begin.
fn enlarge(path: &Path, rows: impl Fn(&str) -> Option<(usize, &'static [usize])>) {
    let bytes = fs::read(path).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let (mut infos, mut pieces, mut end) = (Vec::new(), Vec::new(), 0);
    for (name, view) in whole.iter() {
        let (mut shape, mut starts) = (view.shape().to_vec(), &[0][..]);
        let row = view.data().len() / shape[0];
        if let Some((more, places)) = rows(name) {
            (shape[0], starts) = (more, places);
        }
        pieces.extend(starts.iter().map(|start| (end + start * row, view.data())));
        let data_offsets = (end, end + shape[0] * row);
        end = data_offsets.1;
        infos.push((name.to_owned(), TensorInfo { dtype: view.dtype(), shape, data_offsets }));
    }
    let header = serde_json::to_vec(&Metadata::new(None, infos).unwrap()).unwrap();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    let start = 8 + header.len();
    for (offset, data) in pieces {
        file.seek(SeekFrom::Start((start + offset) as u64)).unwrap();
        file.write_all(data).unwrap();
    }
    file.set_len((start + end) as u64).unwrap();
}
