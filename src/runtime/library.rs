//! Finds and loads onnxruntime's library.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ::ort::LoadDynamicError;
use ::ort::environment::Environment;
use ::ort::logging::LogLevel;
use fs_err as fs;
use serde::Serialize;

use super::message;
use crate::error::{Kind, Result, Setting, bail, err};
use crate::files::canonicalize;

/// The library of onnxruntime that this process runs.
#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// Such as `1.32.0`, from the file name if that has one.
    pub version: Option<String>,
    /// A bare file name if the system found it.
    pub path: PathBuf,
}

/// Names a library or its folder.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The library of this process; onnxruntime allows no other.
static LOADED: OnceLock<(Library, Environment)> = OnceLock::new();

impl Library {
    /// Loads the library at `requested` or in that folder; otherwise the one of
    /// `ORT_DYLIB_PATH`, one that the system finds, or the one of the `python3` on the PATH.
    pub fn load(requested: Option<&Path>) -> Result<Self> {
        if let Some(path) = requested {
            return Self::open_named(path);
        }
        if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            return Self::open_named(Path::new(&path)).map_err(|error| {
                let kind = error.kind();
                err!("{error} (the environment variable {VARIABLE} names it: correct or unset it)")
                    .with_kind(kind)
                    .with_remedy(Setting::Onnxruntime, "PATH")
            });
        }
        let name = format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        Self::open(Path::new(&name)).or_else(|failure| match library_of_python() {
            Some(path) => Self::open(&path),
            None if failure.kind() == Kind::OldRuntime => Err(failure),
            None => Err(err!(
                "no onnxruntime was found in {VARIABLE}, among the system's libraries and in python3's packages: `python3 -m pip install onnxruntime` installs one (if pip refuses, in a virtual environment), or an installed one can be named"
            )
            .with_remedy(Setting::Onnxruntime, "PATH")),
        })
    }

    /// The same, which may be no older than what a model for `target` needs: an older one may
    /// compute wrong values.
    pub fn load_for(target: &str, oldest: [u32; 3], requested: Option<&Path>) -> Result<Self> {
        let library = Self::load(requested)?;
        if library.version_numbers().is_some_and(|version| version < oldest) {
            let path = library.path.display();
            let oldest = oldest.map(|it| it.to_string()).join(".");
            return Err(err!(
                "`{path}` is {library}, and a model for {target} needs {oldest} or newer: install one, or choose another"
            )
            .with_kind(Kind::OldRuntime)
            .with_remedy(Setting::Onnxruntime, "PATH"));
        }
        Ok(library)
    }

    /// Loads the library that is a path or in a folder.
    fn open_named(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let file = if path.is_dir() { library_in(&path) } else { Some(path.clone()) };
        let Some(file) = file.filter(|file| file.is_file()) else {
            bail!(
                "`{}` has no onnxruntime library: expected the library, the folder that it is in, or a Python environment with onnxruntime",
                path.display()
            );
        };
        Self::open(&file)
    }

    /// Loads the library at a path, or a bare name from where the system looks.
    fn open(path: &Path) -> Result<Self> {
        let is_bare = path.components().count() == 1;
        let real = if is_bare { path.to_owned() } else { canonicalize(path)? };
        if let Some((library, _)) = LOADED.get() {
            if library.path == real {
                return Ok(library.clone());
            }
            let loaded = library.path.display();
            bail!("this process runs the onnxruntime of `{loaded}` already, and can load no other");
        }
        let shown = path.display();
        let failed = |reason| err!("cannot load `{shown}` as onnxruntime: {reason}");
        let builder = ::ort::init_from(&real).map_err(|error| match error {
            LoadDynamicError::BadVersion { version_str, .. } => {
                err!("`{shown}` is onnxruntime {version_str}, and models need 1.23.1 or newer")
                    .with_kind(Kind::OldRuntime)
            }
            LoadDynamicError::Dlopen { .. } if !is_bare => err!(
                "`{shown}` is not a library that this system can load: expected onnxruntime's own, such as libonnxruntime.so.1.32.0, or the folder that it is in"
            ),
            error => failed(error.to_string()),
        })?;
        let environment = builder.with_name("gpt-oss-export").with_telemetry(false).build();
        let environment = environment.map_err(|error| failed(message(&error)))?;
        // Failures come back as errors; nothing else should reach the terminal.
        environment.set_log_level(LogLevel::Fatal);
        let version = version_of(&real).map(|version| version.map(|it| it.to_string()).join("."));
        let library = Self { version, path: real };
        Ok(LOADED.get_or_init(|| (library, environment)).0.clone())
    }

    /// Major, minor and patch version, if it is known.
    pub fn version_numbers(&self) -> Option<[u32; 3]> {
        version_of(&self.path)
    }

    pub(super) fn environment(&self) -> &'static Environment {
        &LOADED.get().expect("a library is made by loading it").1
    }
}

/// The version in a file name such as `libonnxruntime.so.1.32.0`.
fn version_of(library: &Path) -> Option<[u32; 3]> {
    let name = library.file_name()?.to_str()?;
    let numbers: Vec<u32> = name.split('.').filter_map(|part| part.parse().ok()).collect();
    numbers.try_into().ok()
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "onnxruntime {version}"),
            None => write!(f, "the onnxruntime of `{}`", self.path.display()),
        }
    }
}

/// The library in the folder of the Python package, whose path is looked up without
/// importing it.
fn library_of_python() -> Option<PathBuf> {
    // Python searches the working folder first, and a file there may be anybody's. `sys` is
    // built in.
    const PROGRAM: &str = "import sys; sys.path = [p for p in sys.path if p]; \
        import importlib.util as u; s = u.find_spec('onnxruntime'); \
        print(s.submodule_search_locations[0] if s else '')";
    let mut python = Command::new("python3");
    let output = python.args(["-c", PROGRAM]).stderr(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    let folder = folder.trim_end();
    if folder.is_empty() { None } else { library_in(Path::new(folder)) }
}

/// The newest library in a folder, in `capi` below it as in the Python package, or in a Python
/// environment.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.strip_prefix("lib").unwrap_or(name);
        let rest = name.strip_prefix("onnxruntime.").unwrap_or_default();
        let is_code = rest.split('.').any(|part| ["so", "dylib", "dll"].contains(&part));
        is_code && path.is_file()
    };
    let packages = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
    let packages = packages.map(|python| python.path().join("site-packages"));
    let packages = packages.chain([folder.to_owned()]).map(|it| it.join("onnxruntime/capi"));
    let mut folders = [folder.join("capi"), folder.to_owned()].into_iter().chain(packages);
    folders.find_map(|folder| {
        let entries = fs::read_dir(folder).ok()?;
        let libraries = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_library);
        libraries.max_by_key(|path| (version_of(path), path.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_version_from_file_name() {
        let version = |name: &str| version_of(Path::new(name));
        assert_eq!(version("/a/libonnxruntime.so.1.32.0"), Some([1, 32, 0]));
        assert_eq!(version("libonnxruntime.1.23.1.dylib"), Some([1, 23, 1]));
        assert_eq!(version("onnxruntime.dll"), None);
        assert_eq!(version("libonnxruntime.so.1"), None);
    }

    #[test]
    fn finds_newest_library_in_folder() {
        let home = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let path = home.path().join("capi").join(name);
            fs::write(&path, "").unwrap();
            path
        };
        fs::create_dir(home.path().join("capi")).unwrap();
        create("libonnxruntime_providers_shared.so");
        create("onnxruntime_validation.py");
        assert_eq!(library_in(home.path()), None);
        let paths = [".1.9.2", "", ".1.32.0", ".1.23.1", ".1"]
            .map(|version| create(&format!("libonnxruntime.so{version}")));
        for folder in [home.path().to_owned(), home.path().join("capi")] {
            assert_eq!(library_in(&folder).as_ref(), Some(&paths[2]));
        }
        // Of a Python environment.
        let environment = tempfile::tempdir().unwrap();
        let packages = environment.path().join("lib/python3.12/site-packages");
        let folder = packages.join("onnxruntime/capi");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("libonnxruntime.so.1.32.0");
        fs::write(&path, "").unwrap();
        for root in [environment.path(), &packages, &packages.join("onnxruntime"), &folder] {
            assert_eq!(library_in(root).as_ref(), Some(&path));
        }
    }
}
