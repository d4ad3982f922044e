//! What `--verify` refuses before anything is written, and whether its advice works.

use std::fs;

use super::environment::onnxruntime;
use crate::support::{
    Home, assert_contains, binary, cases, export_args, failure, staged_args, summary, text, words,
};

/// What follows `; pass` in a sentence, as arguments: alternatives.
fn advice(sentence: &str) -> Vec<Vec<&str>> {
    let (_, options) = sentence.split_once("; pass ").unwrap_or_else(|| panic!("{sentence}"));
    options.split(" or ").map(words).collect()
}

/// These options, but for those that the advice gives other values.
fn changed<'a>(options: &[&'a str], advice: &[&'a str]) -> Vec<&'a str> {
    let name = |option: &str| option.split('=').next().unwrap().to_owned();
    let before = [""].iter().chain(options);
    let is_changed = |(before, option): &(&&str, &&str)| {
        advice.contains(&&*name(option)) || **before == "--output" && advice.contains(before)
    };
    let kept = before.zip(options).filter(|it| !is_changed(it)).map(|(_, option)| option);
    kept.chain(advice).copied().collect()
}

/// Each model, and why it is refused. The first advice makes one that passes.
#[test]
fn advice_of_a_refused_verification_works() {
    let table = "--for=cuda | provider `cuda` and cannot run on a CPU
        --for=cuda --compute=bf16 | provider `cuda` and cannot run on a CPU
        --for=cuda --experts=int4 | provider `cuda` and cannot run on a CPU
        --for=cuda --experts=int8 --dense=int8 | provider `cuda` and cannot run on a CPU
        --target=ort --ep=cuda | provider `cuda` and cannot run on a CPU
        --for=webgpu | provider `webgpu` and cannot run on a CPU
        --for=webgpu --compute=f32 --dense=int8 | provider `webgpu` and cannot run on a CPU
        --for=webgpu --experts=int8 | provider `webgpu` and cannot run on a CPU
        --target=ort --ep=webgpu --experts=int4 | provider `webgpu` and cannot run on a CPU
        --compute=bf16 | computes in bf16, for which onnxruntime has no kernels on a CPU
        --compute=bf16 --tolerance=1 | computes in bf16, for which onnxruntime has no kernels on a CPU
        --compute=f16 | no default tolerance for the model: it computes in f16;
        --target=ort --compute=f16 --dense=int4 | it computes in f16; onnxruntime quantizes activations
        --target=ort --dense=int8 | no default tolerance for the model: onnxruntime quantizes activations
        --target=ort --experts=int4 | unless activations are kept in float;
        --for=onnxruntime --experts=int8 | unless activations are kept in float;";
    for [options, why] in cases(table) {
        let home = Home::with("tiny-128");
        let verified = [words(options), vec!["--verify", "--onnxruntime", text(onnxruntime())]];
        let sentence = home.refusal("m", &verified.concat());
        assert_contains(&sentence, why);
        assert!(sentence.split_whitespace().count() <= 60, "{sentence}");
        let advice = advice(&sentence);
        // A model that is there already stays.
        let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
        fs::write(&model, "a model").unwrap();
        let options = export_args(&checkpoint, &model, &verified.concat());
        let changed = changed(&options, &advice[0]);
        let mut command = binary(&[&changed[..], &["--json"]].concat());
        let summary = summary(command.current_dir(&*home));
        assert_eq!(summary["verification"]["passed"], true, "{changed:?}");
        assert_eq!(fs::read(&model).unwrap(), b"a model");
        assert!(home.join("OTHER.onnx").exists());
        if why.contains("tolerance") {
            assert_eq!(advice[1], ["--tolerance", "X"]);
        }
    }
}

/// The name and the folder of a model for transformers.js matter.
#[test]
fn advice_of_a_refused_verification_for_a_browser_works() {
    let home = Home::with("tiny-128");
    let (checkpoint, model) = (home.checkpoint(), home.join("web/onnx/model_q4f16.onnx"));
    let options = ["--for=transformers-js", "--verify", "--onnxruntime", text(onnxruntime())];
    let options = export_args(&checkpoint, &model, &options);
    let sentence = failure(&options);
    assert_contains(&sentence, "provider `webgpu` and cannot run on a CPU");
    let advice = advice(&sentence);
    let changed = [&changed(&options, &advice[0])[..], &["--json"]].concat();
    let summary = summary(binary(&changed).current_dir(&*home));
    assert_eq!(summary["verification"]["passed"], true, "{changed:?}");
    assert!(home.join("OTHER/onnx/model.onnx").exists() && !model.exists());
}

/// `verify` has no options for another export, and says that they are of one.
#[test]
fn advice_of_verify_names_the_options_of_an_export() {
    let table = "--for cuda | ; export with --ep cpu --compute f32 --output OTHER.onnx
        --for webgpu | ; export with --ep cpu --experts int4 --compute f32 --keep-activations --output OTHER.onnx
        --compute bf16 | ; export with --compute f32 --output OTHER.onnx
        --target ort --dense int8 | ; pass --tolerance X, or export with --keep-activations --output OTHER.onnx
        --compute f16 | ; pass --tolerance X, or export with --compute f32 --output OTHER.onnx";
    for [options, advice] in cases(table) {
        let home = Home::with("tiny-128");
        let (model, _) = home.export("m", &words(options));
        let checkpoint = home.checkpoint();
        let verify = ["verify", text(&model), "--checkpoint", text(&checkpoint)];
        let sentence = failure(&[&verify, &["--onnxruntime", text(onnxruntime())][..]].concat());
        assert!(sentence.ends_with(advice), "{sentence}");
    }
}

/// Of a checkpoint and of a staged file, whose formats and window are known before the export.
#[test]
fn what_cannot_be_verified_is_refused_before_writing() {
    let home = Home::with("tiny-128");
    let (staged, _) = home.stage("staged", &["--experts", "int4"]);
    let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
    let table = "--batch-size=65536 --seq-len=1048576 | of 65536 rows of 1048576 tokens are too many to verify
        --target=ort --batch-size=28000 | of 28000 rows of 40 tokens are too many to verify
        --target=onnx --kv-cache --batch-size=25000 | of 25000 rows of 40 tokens are too many
        --target=ort --compute=f16 --keep-activations | model: it computes in f16; export another one
        --target=ort --ep=cuda | `cuda` and cannot run on a CPU";
    for [options, expected] in cases(table) {
        let library = ["--verify", "--onnxruntime", text(onnxruntime())];
        let options = [words(options), library.to_vec()].concat();
        for arguments in
            [export_args(&checkpoint, &model, &options), staged_args(&staged, &model, &options)]
        {
            assert_contains(&failure(&arguments), expected);
            assert!(!model.exists());
        }
    }
    let rounding = ["--target=ort", "--verify", "--onnxruntime", text(onnxruntime())];
    assert_contains(&failure(&staged_args(&staged, &model, &rounding)), "activations to 8 bits");
    assert!(!model.exists());
}

/// At the released model's vocabulary.
#[test]
fn logits_beyond_the_memory_are_refused_before_writing() {
    let home = Home::new();
    crate::sizes::sparse(&home, 2, 32, 1);
    let model = home.join("m.onnx");
    for options in
        ["--batch-size=20000", "--kv-cache --batch-size=5000", "--seq-len=4000 --batch-size=100"]
    {
        let library = ["--verify", "--onnxruntime", text(onnxruntime())];
        let options = [words(options), library.to_vec()].concat();
        let sentence = failure(&export_args(&home, &model, &options));
        assert_contains(&sentence, "of memory are free: take fewer of them");
        assert!(!model.exists());
    }
}
