//! Shared by the tests: fixtures and the binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray::ArrayD;
use serde_json::Value;
use tempfile::TempDir;

/// A file or folder under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder that holds a copy of the tiny checkpoint as `tiny`.
pub fn folder_with_tiny() -> TempDir {
    folder_with("tiny", "tiny")
}

/// A folder that holds a copy of a fixture as `checkpoint`.
pub fn folder_with_checkpoint(fixture: &str) -> TempDir {
    folder_with(fixture, "checkpoint")
}

fn folder_with(name: &str, copy: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture(name), &home.path().join(copy));
    home
}

/// Copies the files of a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Flips the last bit of a file.
pub fn flip_last_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The header of a SafeTensors file, and the data behind it.
pub fn split_safetensors(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk().unwrap();
    rest.split_at(u64::from_le_bytes(*length) as usize)
}

/// The header of a weights file, and its data.
fn read_weights(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let (header, data) = split_safetensors(&bytes);
    (serde_json::from_slice(header).unwrap(), data.to_vec())
}

/// The metadata of a weights file.
pub fn weights_metadata(path: &Path) -> String {
    read_weights(path).0["__metadata__"]["gpt_oss_export"].as_str().unwrap().to_owned()
}

/// Replaces the metadata of a weights file.
pub fn set_weights_metadata(path: &Path, metadata: String) {
    let (mut header, data) = read_weights(path);
    header["__metadata__"]["gpt_oss_export"] = metadata.into();
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
}

/// Every file and folder below a folder with its bytes, sorted.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// The binary with arguments.
pub fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"));
    command.args(arguments);
    command
}

/// Runs the binary.
pub fn run(arguments: &[&str]) -> Output {
    binary(arguments).output().unwrap()
}

/// Runs a line of `sh` with the binary as `$0`.
#[cfg(unix)]
pub fn shell(line: &str, folder: &Path) -> Output {
    let binary = env!("CARGO_BIN_EXE_gpt-oss-export");
    Command::new("sh").args(["-c", line, binary]).current_dir(folder).output().unwrap()
}

/// Runs the binary, which must succeed, and returns its summary.
pub fn export(arguments: &[&str]) -> Value {
    summary(&mut binary(&[arguments, &["--json"]].concat()))
}

/// Runs the binary, which must fail with status 1, and returns its sentence.
pub fn failure(arguments: &[&str]) -> String {
    sentence(&mut binary(arguments))
}

/// Runs a command, which must succeed, and returns the JSON that it prints.
#[track_caller]
pub fn summary(command: &mut Command) -> Value {
    serde_json::from_str(&printed(command)).unwrap()
}

/// Runs a command, which must succeed, and returns what it prints.
#[track_caller]
pub fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command, which must fail with status 1, and returns its sentence.
#[track_caller]
pub fn sentence(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {error}");
    assert!(output.stdout.is_empty(), "{command:?}");
    let sentence = error.strip_prefix("error: ").expect("errors begin with `error: `");
    sentence.trim_end().to_owned()
}

#[track_caller]
pub fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "{text}\nlacks: {part}");
}

/// Arguments that export a checkpoint as a model.
pub fn export_args<'a>(checkpoint: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["--checkpoint", text(checkpoint), "--output", text(model)], options].concat()
}

/// Arguments that export a weights file as a model.
pub fn staged_args<'a>(weights: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["--weights", text(weights), "--output", text(model)], options].concat()
}

/// Arguments that write a weights file and no model.
pub fn stage_args<'a>(
    checkpoint: &'a Path,
    weights: &'a Path,
    options: &[&'a str],
) -> Vec<&'a str> {
    let save = ["--checkpoint", text(checkpoint), "--save-weights", text(weights), "--skip-onnx"];
    [&save, options].concat()
}

/// Exports the checkpoint in `checkpoint` of a folder as a model of this name beside it.
pub fn export_in(home: &Path, name: &str, options: &[&str]) -> (PathBuf, Value) {
    let model = home.join(name).with_extension("onnx");
    let summary = export(&export_args(&home.join("checkpoint"), &model, options));
    (model, summary)
}

/// The metadata of a model.
pub fn model_metadata(model: &Path) -> Value {
    let properties = &export(&["inspect", text(model)])["properties"];
    serde_json::from_str(properties["gpt_oss_export"].as_str().unwrap()).unwrap()
}

/// The array in a little-endian `.npy` file of C order.
pub fn npy<T, const SIZE: usize>(path: &Path, from_le_bytes: fn([u8; SIZE]) -> T) -> ArrayD<T> {
    let file = fs::read(path).unwrap();
    let data_start = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let (header, data) = file.split_at(data_start);
    let header = String::from_utf8_lossy(header);
    let shape = header.split(['(', ')']).nth(1).expect("the header holds `'shape': (…)`");
    let shape: Vec<usize> = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let values = data.as_chunks().0.iter().map(|bytes| from_le_bytes(*bytes)).collect();
    ArrayD::from_shape_vec(shape, values).unwrap()
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
