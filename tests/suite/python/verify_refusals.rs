//! Models that `verify` refuses, or finds wrong.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::environment::{interpreter, onnxruntime};
use super::verify::{exported, fails, passes, refused};
use crate::layout_fixtures::{edit_tensors, edited};
use crate::support::{
    Home, as_user, assert_contains, binary, cases, failure, printed, sentence, shell, text, words,
};

/// Edits a model by Python that has it as `m`, its metadata as `metadata` and the type of its first input as `ids`.
fn edit(model: &Path, code: &str) {
    let program = format!(
        "import json, onnx; m = onnx.load('{0}', load_external_data=False); p = m.metadata_props[0]\n\
         metadata = json.loads(p.value); ids = m.graph.input[0].type.tensor_type\n{code}\np.value = json.dumps(metadata)\nonnx.save(m, '{0}')",
        text(model)
    );
    printed(Command::new(interpreter()).args(["-c", &program]));
}

#[test]
fn finds_renamed_weight() {
    let (_home, checkpoint, model) = exported("tiny", &[]);
    let rename = "
def renamed(name): return 'other.weight' if name == 'embedding.weight' else name
for t in m.graph.initializer: t.name = renamed(t.name)
for n in m.graph.node: n.input[:] = [renamed(name) for name in n.input]";
    edit(&model, rename);
    let (report, sentence) = fails(&model, &checkpoint, &[]);
    assert_eq!(report["weights"]["missing"], json!(["embedding.weight"]));
    assert_eq!(report["weights"]["unknown"], json!(["other.weight"]));
    assert_contains(&sentence, "missing or incomplete: `embedding.weight`");
    passes(&model, &checkpoint, &["--tolerance", "1e-4"]);
}

#[test]
fn refuses_models_with_edited_metadata_or_inputs() {
    let (_home, checkpoint, model) = exported("tiny", &["--batch-size", "2", "--seq-len", "40"]);
    let original = fs::read(&model).unwrap();
    let table = "metadata['residuals'][1:] = metadata['routers'] | --trace | has a residual stream of another size
        metadata['residuals'].pop() | --trace | has 3 values of the residual stream for 3
        metadata['routers'].append('x') | | has 4 values of router scores for 3 layers, so gpt-oss-export did not write it as it is: export again
        metadata['residuals'] = [] | --trace | does not list the values of its residual
        m.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1; metadata['residuals'] = [] | | does not list the values of its residual
        metadata['layers'] = 4 | | has 4 layers, the checkpoint 3: give the checkpoint that the model was made from
        metadata['layers'] = 10**18 | | is not valid: it has 1000000000000000000 layers, expected at most 10000
        metadata['version'] = 9 | | its metadata has version 9
        ids.shape.dim[0].dim_value = 0 | | has an input `input_ids` without tokens
        ids.elem_type = 1 | | an unknown input `input_ids` f32
        m.graph.output[0].name = 'other' | | has no output `logits` f32
        for v in [*m.graph.input, *m.graph.output]: v.type.tensor_type.shape.dim[0].dim_value = 1 << 40 | | 1099511627776
        for v in [*m.graph.input, *m.graph.output]: v.type.tensor_type.shape.dim[1].dim_value = 1 << 40 | | 1099511627776";
    for [code, options, sentence] in cases(table) {
        fs::write(&model, &original).unwrap();
        edit(&model, code);
        assert_contains(&refused(&model, &checkpoint, &words(options)), sentence);
    }
}

/// Memory is not taken for any size that a model claims.
#[test]
fn generation_refuses_models_with_edited_sizes() {
    let (_home, _, model) = exported("tiny", &["--batch-size", "2", "--seq-len", "40"]);
    let original = fs::read(&model).unwrap();
    let table = "for v in [*m.graph.input, *m.graph.output]: v.type.tensor_type.shape.dim[0].dim_value = 1 << 40 | computes 1099511627776 rows of 40 tokens at a time
        for v in [*m.graph.input, *m.graph.output]: v.type.tensor_type.shape.dim[1].dim_value = 1 << 40 | computes 2 rows of 1099511627776 tokens at a time, and the limit for a prompt of 1 is 16777216 tokens in all: export it
        m.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 0 | has logits of unknown number";
    for [code, expected] in cases(table) {
        fs::write(&model, &original).unwrap();
        edit(&model, code);
        let arguments = ["generate", text(&model), "--ids", "1", "--onnxruntime"];
        let mut command = binary(&[&arguments, &[text(onnxruntime())][..]].concat());
        assert_contains(&sentence(&mut command), expected);
    }
}

#[test]
fn refuses_unsuitable_requests_in_one_sentence() {
    let (home, checkpoint, model) = exported("tiny", &["--batch-size", "2", "--seq-len", "9"]);
    let (_other_home, other, cached) = exported("tiny-1-kv", &["--kv-cache"]);
    let (broken, absent) = (home.join("broken.onnx"), home.join("none.onnx"));
    fs::write(&broken, "no model").unwrap();
    let nowhere = checkpoint.join("owner/name");
    for (model, checkpoint, options, sentence) in [
        (&broken, &checkpoint, "", "broken.onnx` is a text that begins \"no model\", not the file"),
        (&absent, &checkpoint, "", "none.onnx"),
        (&model, &nowhere, "", "there is nothing at `"),
        (&model, &other, "", "a vocabulary of 320 tokens, the checkpoint of 77"),
        (&model, &checkpoint, "--batch 3", "takes 2 rows, and 3 were requested"),
        (&model, &checkpoint, "--tokens 10", "takes at most 9 tokens, and 10 were"),
        (&cached, &other, "--tokens 5 --decode 5", "need a text of more than 5 tokens, found 5"),
        (&cached, &other, "--tokens 1000000", "context is 131072 tokens, and 1000000 were"),
    ] {
        let error = refused(model, checkpoint, &words(options));
        assert!(error.contains(sentence) && !error.contains("on the hub"), "{error}");
    }
    fs::remove_dir_all(&checkpoint).unwrap();
    assert_contains(&refused(&model, &other, &[]), "model.safetensors`: it does not exist");
}

/// What is not where it should be, or is something else: a table of what happens to the files of an
/// export, the arguments, and the sentence.
#[test]
fn names_files_that_are_not_what_they_should_be() {
    let table = "truncate -s 400000 m_data.safetensors | m.onnx --checkpoint checkpoint | m_data.safetensors`: it has 400000 bytes, and the model reads up to
        truncate -s 0 m_data.safetensors | m.onnx --checkpoint checkpoint | m_data.safetensors`: it has 0 bytes, and the model reads up to
        rm m_data.safetensors | m.onnx --checkpoint checkpoint | cannot read its weights from `./m_data.safetensors`: it does not exist: restore it, or export again
        rm m_data.safetensors; mkdir m_data.safetensors | m.onnx --checkpoint checkpoint | m_data.safetensors`: it is not a regular file: restore it, or export again
        truncate -s 5000 m.onnx | m.onnx --checkpoint checkpoint | `m.onnx` is not an ONNX model, or is truncated (failed to decode
        cp m.onnx n.onnx | ./ --checkpoint checkpoint | `./` holds several models, `./m.onnx`, `./n.onnx`: name one of them
        true | checkpoint --checkpoint checkpoint | `checkpoint` holds no ONNX model: export one, or name another folder
        true | checkpoint --checkpoint m.onnx | `m.onnx` is an ONNX model, and the checkpoint that a model was made from is expected: exchange the two paths if `checkpoint` is the checkpoint
        true | m_data.safetensors --checkpoint m.onnx | exchange the two paths if `m_data.safetensors` is the checkpoint
        true | m.onnx --checkpoint m.onnx | `m.onnx` is an ONNX model
        true | m.onnx --checkpoint chekpoint | there is nothing at `chekpoint` (did you mean `./checkpoint`?)
        true | m.onnx --checkpoint owner/name | there is nothing at `owner/name`; only an export reads repositories on the hub: choose the folder into which
        true | m.onnx --checkpoint hf:owner/name | there is nothing at `hf:owner/name`; only an export reads repositories on the hub
        truncate -s 400000 m_data.safetensors | m.onnx --checkpoint m_data.safetensors | m_data.safetensors` has 400000 bytes, but its header describes";
    for [change, arguments, expected] in cases(table) {
        let home = Home::with("tiny");
        let staged = home.stage("m_data", &[]).0;
        home.export_staged(&staged, "m", &[]);
        let line =
            format!("{change}; \"$0\" verify {arguments} --onnxruntime {}", text(onnxruntime()));
        let (status, _, error) = shell(&line, &home);
        assert_eq!((status, error.lines().count()), (Some(1), 1), "{change}: {error}");
        assert_contains(&error, expected);
    }
}

/// Sets the data of a checkpoint's tensors, whose names in OpenAI's layout match a pattern: all of it to
/// zeros, values that no sample shows to anything else.
fn fill(folder: &Path, pattern: &str, byte: u8) {
    let pattern = glob::Pattern::new(pattern).unwrap();
    edit_tensors(folder, |tensors| {
        for (_, (_, _, data)) in tensors.iter_mut().filter(|(name, _)| pattern.matches(name)) {
            let unsampled = if byte == 0 { 0..data.len() } else { 4096..28_672 };
            data[unsampled].fill(byte);
        }
    });
}

/// Zeros and NaN pass through the graph as through the reference, and prove nothing.
#[test]
fn damaged_weights_are_no_reason_to_pass() {
    let table = "* | 0 | or their download is unfinished; use another copy; `inspect --scan FOLDER` tells which
        unembedding.weight | 0 | the checkpoint's own logits are all 0
        norm.scale | 0 | the checkpoint's own logits are all 0
        embedding.weight | 255 | are infinite or NaN, so values that it reads are damaged: use another copy; `inspect --scan FOLDER` tells which
        block.1.attn.qkv.weight | 255 | are infinite or NaN, so values that it reads are damaged";
    for [tensors, byte, expected] in cases(table) {
        let home = edited(|folder| fill(folder, tensors, byte.parse().unwrap()));
        let (model, _) = home.export("m", &["--ignore-zeros"]);
        let checkpoint = home.checkpoint();
        let expected = expected.replace("FOLDER", text(&checkpoint));
        assert_contains(&refused(&model, &checkpoint, &[]), &expected);
    }
}

/// What replaced the data of a model, beside it and in place: `verify` says what `inspect` says.
#[test]
fn changed_data_is_the_reason() {
    let table = "in-place | fill | checkpoint/model.safetensors`: it was changed since the export: restore it, or export again
        copy | fill | .safetensors`: it was changed since the export: restore it, or export again
        copy | gzip | .safetensors`: it is an archive or a compressed file: unpack it";
    for [placement, change, expected] in cases(table) {
        let (home, checkpoint, model) = exported("tiny", &["--external-data", placement]);
        let data = match placement {
            "copy" => crate::inspect::data_file(&model),
            _ => checkpoint.join("model.safetensors"),
        };
        let mut bytes = fs::read(&data).unwrap();
        bytes.iter_mut().rev().take(1 << 17).for_each(|it| *it = 0x11);
        if change == "gzip" {
            bytes[..9].copy_from_slice(b"\x1f\x8b\x08\0\0\0\0\0\0");
        }
        fs::write(&data, bytes).unwrap();
        let original = Home::with("tiny");
        let (report, sentence) = fails(&model, &original.checkpoint(), &[]);
        assert_contains(&sentence, expected);
        assert!(!sentence.contains("--trace") && !sentence.contains("differ"), "{sentence}");
        let inspected = failure(&["inspect", text(&model)]);
        assert_contains(&inspected, expected);
        assert_eq!(report["changed_data"].as_array().unwrap().len(), 1);
        drop(home);
    }
}

/// A model that another program saved anew, with all bytes in it and with those of large tensors in
/// a file.
#[test]
fn weights_in_the_model_itself_are_told() {
    for external in ["", "save_as_external_data=True, location='all.data', size_threshold=1024"] {
        let (_home, checkpoint, model) = exported("tiny", &[]);
        let again = model.with_file_name("again.onnx");
        let program = format!(
            "import onnx; onnx.save(onnx.load('{}'), '{}', {external})",
            text(&model),
            text(&again)
        );
        printed(Command::new(interpreter()).args(["-c", &program]));
        let (report, sentence) = fails(&again, &checkpoint, &[]);
        assert!(report["weights"]["missing"].as_array().unwrap().is_empty(), "{report}");
        let expected = "logits agree, and bytes cannot be compared: ";
        assert_contains(&sentence, expected);
        assert_contains(&sentence, "weights stored in the model itself: `");
        assert_contains(
            &sentence,
            "; verify the model that was exported, or let logits decide; pass --tolerance ",
        );
        let (_, tolerance) = sentence.trim_end().rsplit_once(' ').unwrap();
        passes(&again, &checkpoint, &["--tolerance", tolerance]);
    }
}

/// A limit on threads is a sentence wherever they are started.
#[cfg(unix)]
#[test]
fn too_few_threads_are_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let (home, checkpoint, _model) = exported("tiny", &[]);
    for folder in [&*home, &checkpoint] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let library = home.join("libonnxruntime.so.1.32.0");
    fs::copy(onnxruntime().join("capi/libonnxruntime.so.1.32.0"), &library).unwrap();
    for threads in [8, 64] {
        let line = format!(
            "export RAYON_NUM_THREADS={threads}; ulimit -u {threads}; exec \"$0\" verify model.onnx --checkpoint checkpoint --onnxruntime {}",
            text(&library)
        );
        let (status, _, error) = shell(&as_user(&line), &home);
        assert_eq!(status, Some(1), "{error}");
        assert_contains(
            &error,
            "cannot start a thread: Resource temporarily unavailable (os error 11)",
        );
    }
}

/// The version is in the name of the library's file.
#[cfg(unix)]
#[test]
fn refuses_unsuitable_libraries() {
    let home = Home::new();
    let old = home.join("libonnxruntime.so.1.23.0");
    fs::copy(onnxruntime().join("capi/libonnxruntime.so.1.32.0"), &old).unwrap();
    for (target, library, sentence) in [
        ("onnx", text(&old), "is onnxruntime 1.23.0, and a model for target `onnx` needs 1.23.1"),
        ("ort", text(&old), "is onnxruntime 1.23.0, and a model for target `ort` needs 1.32.0"),
        ("onnx", "/etc/passwd", "/etc/passwd` is not a library that this system can load"),
        ("onnx", "no/where", "no/where` has no onnxruntime library"),
    ] {
        let (_home, checkpoint, model) = exported("tiny", &["--target", target]);
        let base = ["verify", text(&model), "--checkpoint", text(&checkpoint)];
        let error = failure(&[&base, &["--onnxruntime", library][..]].concat());
        assert!(error.contains(sentence) && error.trim_end().lines().count() == 1, "{error}");
    }
}
