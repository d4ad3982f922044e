//! The one error of this crate: a sentence, and the settings that would help.
//!
//! A sentence names the file, tensor or key, says what was expected and what was found,
//! and what to do. It never names a command-line option: whoever shows the error knows
//! how its users set a [`Setting`].

use std::fmt;
use std::io::{self, ErrorKind};

/// The result of anything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// EMFILE, which has no [`ErrorKind`], and whose number errors with a path hold as text only.
const TOO_MANY_OPEN_FILES: &str = if cfg!(windows) { "(os error 4)" } else { "(os error 24)" };

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why something failed or was refused.
pub struct Error {
    kind: Kind,
    sentence: String,
    remedies: Vec<Vec<(Setting, String)>>,
    source: Option<Cause>,
    /// What is wrong besides.
    others: Vec<Error>,
}

/// What callers can tell errors apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The input is not what it should be, or the request is not possible.
    Invalid,
    /// A file could not be read or written.
    Io,
    /// The values of weights are damaged.
    Damaged,
    /// [`Progress::is_cancelled`](crate::progress::Progress::is_cancelled) said so.
    Interrupted,
    /// The onnxruntime that was found is too old.
    OldRuntime,
}

/// A setting of a request that an error or a summary recommends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Setting {
    AcceptRounding,
    Adapter,
    AdapterAs,
    AdapterLayout,
    AdapterModules,
    BatchSize,
    Checkpoint,
    Compute,
    Dense,
    DownloadDir,
    ExternalData,
    Experts,
    Genai,
    IgnoreConfigKey,
    IgnoreTensor,
    IgnoreZeros,
    KeepActivations,
    KvCache,
    Layers,
    MaxLength,
    MaxShardSize,
    Onnxruntime,
    Output,
    Provider,
    /// Of a request to describe the files at a path: read all their values.
    Scan,
    SlidingCache,
    Stages,
    Target,
    TextField,
    Tokenizer,
    Tokens,
    Tolerance,
    Weights,
}

#[allow(missing_docs)]
impl Error {
    /// An error of kind [`Kind::Invalid`].
    pub fn new(sentence: impl Into<String>) -> Self {
        let (kind, sentence) = (Kind::Invalid, sentence.into());
        Self { kind, sentence, remedies: Vec::new(), source: None, others: Vec::new() }
    }

    /// Everything that is wrong as one error; `Ok` if nothing is.
    pub fn all(errors: impl IntoIterator<Item = Self>) -> Result<()> {
        let mut errors = errors.into_iter();
        let Some(mut first) = errors.next() else { return Ok(()) };
        first.others.extend(errors);
        Err(first)
    }

    /// Both values, or everything that is wrong with either.
    pub fn both<A, B>(one: Result<A>, other: Result<B>) -> Result<(A, B)> {
        match (one, other) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
            (Err(mut first), Err(second)) => {
                first.others.push(second);
                Err(first)
            }
        }
    }

    /// All values, or everything that is wrong with any.
    pub fn collect<T>(results: impl IntoIterator<Item = Result<T>>) -> Result<Vec<T>> {
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(value) => values.push(value),
                Err(error) => errors.push(error),
            }
        }
        Self::all(errors)?;
        Ok(values)
    }

    /// Everything that is wrong, one by one.
    pub fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.others.iter().flat_map(|it| it.each().collect::<Vec<_>>()))
    }

    /// A thread, or one of a pool, that could not be started.
    pub fn no_thread(cause: impl Into<Cause>) -> Self {
        let cause = io::Error::new(ErrorKind::WouldBlock, cause);
        Self::new("cannot start a thread").with_io(cause)
    }

    pub fn interrupted() -> Self {
        Self::new("interrupted").with_kind(Kind::Interrupted)
    }

    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error as the consequence of an I/O error, with what to do about that.
    pub fn with_io(self, error: io::Error) -> Self {
        self.with_kind(Kind::Io).with_source(with_advice(error))
    }

    /// The same error with a setting that would help; the value may be empty.
    pub fn with_remedy(mut self, setting: Setting, value: impl Into<String>) -> Self {
        self.remedies.push(vec![(setting, value.into())]);
        self
    }

    /// The same error with a remedy that is no setting; the sentence names it.
    pub fn with_another_remedy(mut self) -> Self {
        self.remedies.push(Vec::new());
        self
    }

    /// The same error with settings that help only together.
    pub fn with_remedies(mut self, together: Vec<(Setting, String)>) -> Self {
        self.remedies.push(together);
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The first thing that is wrong, without its cause.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// Settings that would help, with their values: alternatives, the best first, each of
    /// one setting or of several together. An empty one is no setting.
    pub fn remedies(&self) -> &[Vec<(Setting, String)>] {
        &self.remedies
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        self.others.iter().try_for_each(|other| write!(f, "\n{other}"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, sentence, remedies, source, others } = self;
        write!(f, "{kind:?}: {sentence}")?;
        for (setting, value) in remedies.iter().flatten() {
            write!(f, " [{setting:?} {value}]")?;
        }
        source.iter().try_for_each(|source| write!(f, ": {source}"))?;
        others.iter().try_for_each(|other| write!(f, "\n{other:?}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(with_advice(error).to_string()).with_kind(Kind::Io)
    }
}

/// The same I/O error with what to do, where the system's words do not say it.
fn with_advice(error: io::Error) -> io::Error {
    let advice = match error.kind() {
        ErrorKind::FileTooLarge => {
            "raise the limit on the size of files (`ulimit -f`), or write to a file system that takes larger ones"
        }
        ErrorKind::StorageFull => "free some space, or choose a folder on another disk",
        ErrorKind::QuotaExceeded => {
            "free some of this user's quota, or choose a folder on another disk"
        }
        // A thread that could not be started.
        ErrorKind::WouldBlock => {
            "raise the limit on processes (`ulimit -u`) or on memory (`ulimit -v`), or end other programs"
        }
        ErrorKind::ReadOnlyFilesystem => "choose a folder on another file system",
        ErrorKind::PermissionDenied => "give this user the permission, or choose another path",
        ErrorKind::InvalidFilename => "choose a shorter name",
        _ if error.to_string().contains(TOO_MANY_OPEN_FILES) => {
            "raise the limit on open files (`ulimit -n`)"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {advice}"))
}

/// An [`Error`] from the arguments of `format!`.
macro_rules! err {
    ($($sentence:tt)+) => { $crate::error::Error::new(format!($($sentence)+)) };
}

/// Returns an [`Error`] from the arguments of `format!`.
macro_rules! bail {
    ($($sentence:tt)+) => { return Err($crate::error::err!($($sentence)+)) };
}

/// Returns an [`Error`] unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            $crate::error::bail!($($sentence)+);
        }
    };
}

pub(crate) use {bail, ensure, err};
