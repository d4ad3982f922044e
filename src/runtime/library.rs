//! Which onnxruntime.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ::ort::LoadDynamicError;
use ::ort::environment::Environment;
use ::ort::logging::LogLevel;
use fs_err as fs;

use super::{Error, Result, reason};

/// A loaded library of onnxruntime.
#[derive(Clone, Debug)]
pub struct Library {
    /// Where it is; a bare name is one that the system has found.
    pub path: PathBuf,
    /// As its file name has it; unknown where that has none.
    pub version: Option<Version>,
}

/// A version of onnxruntime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u32; 3]);

/// The one of this process; onnxruntime allows no other.
static LOADED: OnceLock<(Library, Environment)> = OnceLock::new();

impl Library {
    /// Loads the library asked for; else that of `ORT_DYLIB_PATH`; else one that
    /// the system finds; else that of the `python3` on the PATH.
    pub fn load(asked: Option<&Path>) -> Result<Self> {
        let named = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
        if let Some(path) = asked.map(Path::to_owned).or(named.map(PathBuf::from)) {
            let path = std::path::absolute(path)?;
            let file = if path.is_dir() { library_in(&path) } else { Some(path.clone()) };
            return Self::open(&file.filter(|file| file.is_file()).ok_or(Error::NotThere(path))?);
        }
        let plain = format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        let old = match Self::open(Path::new(&plain)) {
            Ok(found) => return Ok(found),
            Err(error) => Some(error).filter(|error| matches!(error, Error::Old { .. })),
        };
        match library_of_python() {
            Some(path) => Self::open(&path),
            None => Err(old.unwrap_or(Error::Missing)),
        }
    }

    /// Loads the library at a path, or the one that the system has by a bare name.
    fn open(path: &Path) -> Result<Self> {
        let is_bare = path.components().count() == 1;
        let real = if is_bare { path.to_owned() } else { path.canonicalize()? };
        if let Some((library, _)) = LOADED.get() {
            return match library.path == real {
                true => Ok(library.clone()),
                false => Err(Error::Another(library.path.clone())),
            };
        }
        let failed = |reason| Error::Library { path: path.to_owned(), reason };
        let builder = ::ort::init_from(&real).map_err(|error| match error {
            LoadDynamicError::BadVersion { version_str, .. } => {
                Error::Old { path: path.to_owned(), found: version_str }
            }
            LoadDynamicError::Dlopen { .. } if !is_bare => Error::NoLibrary(path.to_owned()),
            error => failed(error.to_string()),
        })?;
        let environment = builder.with_name("gpt-oss-export").with_telemetry(false).build();
        let environment = environment.map_err(|error| failed(reason(&error)))?;
        // What matters comes back as an error; the terminal is not the library's.
        environment.set_log_level(LogLevel::Fatal);
        let library = Self { version: Version::of_file(&real), path: real };
        Ok(LOADED.get_or_init(|| (library, environment)).0.clone())
    }

    /// What sessions are made in.
    pub(super) fn environment(&self) -> &'static Environment {
        &LOADED.get().expect("a library is made by loading it").1
    }
}

impl Version {
    /// From a name such as `libonnxruntime.so.1.32.0`.
    fn of_file(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let numbers: Vec<u32> = name.split('.').filter_map(|part| part.parse().ok()).collect();
        Some(Self(numbers.try_into().ok()?))
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "onnxruntime {version}"),
            None => write!(f, "the onnxruntime of `{}`", self.path.display()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// The library in the folder of a Python package, which is asked for its place
/// and not imported.
fn library_of_python() -> Option<PathBuf> {
    // Not in the working folder, which Python looks into first: whoever wrote what is
    // there must not have it run. `sys` alone is a part of Python itself.
    const PROGRAM: &str = "import sys; sys.path = [p for p in sys.path if p]; \
        import importlib.util as u; s = u.find_spec('onnxruntime'); \
        print(s.submodule_search_locations[0] if s else '')";
    let mut python = Command::new("python3");
    let output = python.args(["-c", PROGRAM]).stderr(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    library_in(Path::new(folder.trim_end())).filter(|_| !folder.trim_end().is_empty())
}

/// The library in a folder, or below it as in a Python package; of several the newest.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.strip_prefix("lib").unwrap_or(name);
        let rest = name.strip_prefix("onnxruntime.").unwrap_or_default();
        let is_code = rest.split('.').any(|part| ["so", "dylib", "dll"].contains(&part));
        is_code && path.is_file()
    };
    [folder.join("capi"), folder.to_owned()].into_iter().find_map(|folder| {
        let entries = fs::read_dir(folder).ok()?;
        let libraries = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_library);
        libraries.max_by_key(|path| (Version::of_file(path), path.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_in_the_file_name_or_unknown() {
        let version = |name: &str| Version::of_file(Path::new(name));
        assert_eq!(version("/a/libonnxruntime.so.1.32.0"), Some(Version([1, 32, 0])));
        assert_eq!(version("libonnxruntime.1.23.1.dylib"), Some(Version([1, 23, 1])));
        assert_eq!(version("onnxruntime.dll"), None);
        assert_eq!(version("libonnxruntime.so.1"), None);
        assert!(Version([1, 9, 0]) < Version([1, 23, 1]));
    }

    #[test]
    fn the_library_is_told_from_its_companions() {
        let home = tempfile::tempdir().unwrap();
        let capi = home.path().join("capi");
        fs::create_dir(&capi).unwrap();
        for name in ["libonnxruntime_providers_shared.so", "onnxruntime_validation.py"] {
            fs::write(capi.join(name), "").unwrap();
        }
        assert_eq!(library_in(home.path()), None);
        let library = capi.join("libonnxruntime.so.1.32.0");
        fs::write(&library, "").unwrap();
        assert_eq!(library_in(home.path()), Some(library.clone()));
        assert_eq!(library_in(&capi), Some(library));
    }

    #[test]
    fn of_several_libraries_the_newest_is_taken() {
        let home = tempfile::tempdir().unwrap();
        for version in [".1.9.2", "", ".1.32.0", ".1.23.1", ".1"] {
            fs::write(home.path().join(format!("libonnxruntime.so{version}")), "").unwrap();
        }
        let newest = home.path().join("libonnxruntime.so.1.32.0");
        assert_eq!(library_in(home.path()), Some(newest));
    }
}
