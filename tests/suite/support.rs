//! Shared by the tests: fixtures, folders and the binary.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use gpt_oss_export::checkpoint::{self, Checkpoint, IgnoredNames};
use gpt_oss_export::graph::Model;
use gpt_oss_export::model::{GraphOptions, ModelPart, decoder};
use ndarray::ArrayD;
use serde_json::Value;
use tempfile::TempDir;

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file or folder under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// The graph of a whole model.
pub fn whole_graph(checkpoint: &Checkpoint, options: GraphOptions) -> Model {
    graph(checkpoint, &ModelPart::whole(checkpoint.config.num_layers()), options)
}

/// The graph of a part of a model.
pub fn graph(checkpoint: &Checkpoint, part: &ModelPart, options: GraphOptions) -> Model {
    decoder(&checkpoint.config, &checkpoint.weights, part, options).unwrap()
}

/// A folder for the files of a test, which may have a checkpoint in `checkpoint`.
pub struct Home(TempDir);

impl Deref for Home {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn with(name: &str) -> Self {
        let home = Self::new();
        copy_folder(&fixture(name), &home.checkpoint());
        home
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.join("checkpoint")
    }

    /// The fingerprint of the checkpoint.
    pub fn fingerprint(&self) -> String {
        open(&self.checkpoint()).samples().unwrap().fingerprint.to_string()
    }

    /// Exports the checkpoint as a model of this name: its path, and the summary.
    pub fn export(&self, name: &str, options: &[&str]) -> (PathBuf, Value) {
        let model = self.join(name).with_extension("onnx");
        let summary = export(&export_args(&self.checkpoint(), &model, options));
        (model, summary)
    }

    /// What such an export prints.
    #[track_caller]
    pub fn printed_summary(&self, name: &str, options: &[&str]) -> String {
        let model = self.join(name).with_extension("onnx");
        printed(&mut binary(&export_args(&self.checkpoint(), &model, options)))
    }

    /// Stages the checkpoint's weights in a file of this name: its path, and the summary.
    pub fn stage(&self, name: &str, options: &[&str]) -> (PathBuf, Value) {
        let weights = self.join(name).with_extension("safetensors");
        let summary = export(&stage_args(&self.checkpoint(), &weights, options));
        (weights, summary)
    }

    /// Exports staged weights as a model of this name: its path, and the summary.
    pub fn export_staged(&self, weights: &Path, name: &str, options: &[&str]) -> (PathBuf, Value) {
        let model = self.join(name).with_extension("onnx");
        let summary = export(&staged_args(weights, &model, options));
        (model, summary)
    }

    /// The sentence that refuses to export the checkpoint as a model of this name, and changes
    /// nothing.
    #[track_caller]
    pub fn refusal(&self, name: &str, options: &[&str]) -> String {
        let before = contents(self);
        let model = self.join(name).with_extension("onnx");
        let sentence = failure(&export_args(&self.checkpoint(), &model, options));
        assert!(contents(self) == before, "{sentence}");
        sentence
    }
}

/// Copies the files of a folder, and none of those below it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let paths = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.is_file()) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

pub fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder, &IgnoredNames::default()).unwrap()
}

pub fn flip_last_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Cuts a file off, or appends zeros.
pub fn resize(path: &Path, length: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length(file.metadata().unwrap().len())).unwrap();
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The header of a SafeTensors file, and the data behind it.
pub fn split_safetensors(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk().unwrap();
    rest.split_at(u64::from_le_bytes(*length) as usize)
}

pub fn weights_metadata(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let header: Value = serde_json::from_slice(split_safetensors(&bytes).0).unwrap();
    header["__metadata__"]["gpt_oss_export"].as_str().unwrap().to_owned()
}

/// Every file and folder below a folder, sorted.
pub fn paths(folder: &Path) -> Vec<PathBuf> {
    let pattern = glob::Pattern::escape(text(folder)) + "/**/*";
    let mut paths: Vec<_> = glob::glob(&pattern).unwrap().map(Result::unwrap).collect();
    paths.sort();
    paths
}

/// The same with the bytes of each file.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let bytes = |path: &Path| if path.is_dir() { Vec::new() } else { fs::read(path).unwrap() };
    paths(folder).into_iter().map(|path| (path.clone(), bytes(&path))).collect()
}

pub fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"));
    command.args(arguments);
    command
}

pub fn run(arguments: &[&str]) -> Output {
    binary(arguments).output().unwrap()
}

/// Runs a line of `sh` with the binary as `$0`: its status, output and errors.
pub fn shell(line: &str, folder: &Path) -> (Option<i32>, String, String) {
    let mut shell = Command::new("sh");
    shell.args(["-c", line, env!("CARGO_BIN_EXE_gpt-oss-export")]).current_dir(folder);
    let Output { status, stdout, stderr } = shell.output().unwrap();
    let [output, errors] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    (status.code(), output, errors)
}

/// A line of `bash` as a user for whom limits and permissions count, unlike for root.
pub fn as_user(line: &str) -> String {
    let root = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    format!("[ $(id -u) = 0 ] && user='{root}'; exec $user bash -c '{line}' \"$0\"")
}

/// Runs the binary, which must succeed, and returns its summary.
#[track_caller]
pub fn export(arguments: &[&str]) -> Value {
    assert_inspection_agrees(arguments);
    summary(&mut binary(&[arguments, &["--json"]].concat()))
}

/// Runs the binary, which must fail with status 1, and returns its sentence.
#[track_caller]
pub fn failure(arguments: &[&str]) -> String {
    assert_inspection_agrees(arguments);
    sentence(&mut binary(arguments))
}

/// Larger folders take too long to copy.
const LARGEST_COMPARED: u64 = 64 << 20;

/// Runs `inspect` and a plain export of the folder that arguments of an export name, each state of
/// a folder once: either both find it in order, or both say the same. An adapter is no checkpoint, nor is
/// a model.
#[track_caller]
fn assert_inspection_agrees(arguments: &[&str]) {
    static COMPARED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let ["--checkpoint", folder, options @ ..] = arguments else { return };
    let is_flag = |it: &&&str| **it == "--ignore-zeros";
    let names = |it: &str| it.starts_with("--ignore-") && !is_flag(&&it);
    let pairs = options.windows(2).filter(|it| names(it[0]));
    let joined = options.iter().filter(|it| it.starts_with("--ignore-") && it.contains('='));
    let flags = options.iter().filter(is_flag);
    let ignored: Vec<&str> = pairs.flatten().chain(joined).chain(flags).copied().collect();
    let Ok(entries) = fs::read_dir(folder) else { return };
    if checkpoint::is_adapter(&checkpoint::names(Path::new(folder))) {
        return;
    }
    let states: Vec<_> = entries
        .flatten()
        .filter_map(|it| Some((it.file_name(), it.metadata().ok()?)))
        .map(|(name, it)| (name, it.len(), it.modified().unwrap()))
        .collect();
    let state = format!("{folder} {ignored:?} {states:?}");
    let bytes: u64 = states.iter().map(|(_, length, _)| length).sum();
    if bytes > LARGEST_COMPARED || !COMPARED.lock().unwrap().insert(state) {
        return;
    }
    let home = Home::new();
    let model = home.join("m.onnx");
    let exported =
        run(&export_args(Path::new(folder), &model, &[&["--quiet"], &*ignored].concat()));
    let inspected = run(&[&["inspect", folder, "--json"], &*ignored].concat());
    if inspected.stdout.starts_with(br#"{"kind":"model""#) {
        assert_eq!(exported.status.code(), Some(1), "{folder} is a model's");
        return;
    }
    let [said, found] =
        [exported, inspected].map(|it| (it.status.code(), String::from_utf8(it.stderr).unwrap()));
    // Without a scan an inspection reads no values.
    if !said.1.contains("infinite or NaN") {
        assert_eq!(said, found, "{folder} {ignored:?}");
    }
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
    // An inspection says what is there, and then what is wrong.
    let inspects = command.get_args().next().is_some_and(|it| it == "inspect");
    assert!(output.stdout.is_empty() || inspects, "{command:?}");
    let sentence = error.strip_prefix("error: ").expect("errors begin with `error: `");
    sentence.trim_end().to_owned()
}

/// A text that is the same on all systems: on Windows paths have other separators, and words
/// other quotes.
pub fn portable(text: &str) -> String {
    if cfg!(windows) { text.replace('\\', "/").replace(['"', '\''], "") } else { text.to_owned() }
}

#[track_caller]
pub fn assert_same(text: &str, expected: &str) {
    assert_eq!(portable(text), portable(expected));
}

#[track_caller]
pub fn assert_contains(text: &str, part: &str) {
    assert!(portable(text).contains(&portable(part)), "{text}\nlacks: {part}");
}

#[track_caller]
pub fn assert_starts(text: &str, start: &str) {
    assert!(portable(text).starts_with(&portable(start)), "{text}\ndoes not start: {start}");
}

#[track_caller]
pub fn assert_ends(text: &str, end: &str) {
    assert!(portable(text).ends_with(&portable(end)), "{text}\ndoes not end: {end}");
}

/// Arguments that export a checkpoint as a model.
pub fn export_args<'a>(checkpoint: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["--checkpoint", text(checkpoint), "--output", text(model)], options].concat()
}

/// The model that an export to this path with these options writes; of one in stages the pattern of
/// their paths.
pub fn model_path(model: &Path, options: &[&str]) -> PathBuf {
    let stages = options.windows(2).find(|it| it[0] == "--stages").map(|it| it[1]);
    let Some(stages) = stages else { return model.to_owned() };
    let of = stages.parse().unwrap_or_else(|_| stages.split(',').count());
    let name = model.file_stem().unwrap().to_str().unwrap();
    model.with_file_name(format!("{name}.stage-*-of-{of}.onnx"))
}

/// Arguments that export a weights file as a model.
pub fn staged_args<'a>(weights: &'a Path, model: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["--weights", text(weights), "--output", text(model)], options].concat()
}

/// Arguments that write a weights file and no model.
pub fn stage_args<'a>(source: &'a Path, weights: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    let save = ["--checkpoint", text(source), "--save-weights", text(weights), "--skip-onnx"];
    [&save, options].concat()
}

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

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The cases of a table: a line each, with `|` between columns.
pub fn cases<const COLUMNS: usize>(table: &str) -> impl Iterator<Item = [&str; COLUMNS]> {
    table.trim().lines().map(|line| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        columns.try_into().unwrap_or_else(|_| panic!("not {COLUMNS} columns: {line}"))
    })
}

pub fn words(options: &str) -> Vec<&str> {
    options.split_whitespace().collect()
}
