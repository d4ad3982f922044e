//! What can go wrong with a request, and whether to ask again.

use std::thread;
use std::time::{Duration, Instant};

use ureq::http::header::{self, AsHeaderName};
use ureq::http::{HeaderMap, StatusCode};

use super::{Error, Result};
use crate::progress::Progress;

/// Failures in a row that end a transfer.
const FAILURES: u32 = 5;
/// The wait after the first of them; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that a hub can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// The next one may go better, at the earliest after the wait that was asked for.
    Passing { what: String, wait: Option<Duration> },
    /// None will.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<std::io::Error> for Failure {
    /// Of a file of ours.
    fn from(error: std::io::Error) -> Self {
        Self::Final(error.into())
    }
}

impl Failure {
    /// Something that may not happen again.
    pub fn passing(what: impl Into<String>) -> Self {
        Self::Passing { what: what.into(), wait: None }
    }

    /// An answer that does not say which bytes it holds.
    pub fn unclear() -> Self {
        Self::passing("an answer that does not say which bytes it holds")
    }

    /// No whole answer came.
    pub fn transport(address: &str, error: ureq::Error) -> Self {
        use ureq::Error::*;
        match error {
            Timeout(_) => Self::passing("no answer in time"),
            // So rustls says that it does not trust what it sees.
            Io(error) if error.to_string().contains("certificate") => {
                Error::Untrusted { address: address.to_owned(), reason: error.to_string() }.into()
            }
            Io(error) => Self::passing(error.to_string()),
            HostNotFound => Self::passing("no such host"),
            ConnectionFailed | Protocol(_) | BodyStalled => Self::passing(error.to_string()),
            error => {
                Error::Request { address: address.to_owned(), reason: error.to_string() }.into()
            }
        }
    }

    /// The answer is that there is none.
    pub fn status(address: &str, status: StatusCode, headers: &HeaderMap) -> Self {
        let passing = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
        if passing {
            let wait =
                text(headers, header::RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
            let wait = wait.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
            return Self::Passing { what: format!("an answer {}", status.as_u16()), wait };
        }
        let said = |name| text(headers, name).map(str::to_owned);
        let (code, message) = (said("x-error-code"), said("x-error-message"));
        Error::Refused { address: address.to_owned(), status: status.as_u16(), code, message }
            .into()
    }
}

/// A header's text.
pub fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Counts failures in a row, and waits between attempts.
pub struct Patience<'a> {
    address: &'a str,
    failures: u32,
}

impl<'a> Patience<'a> {
    /// With requests to this address.
    pub fn with(address: &'a str) -> Self {
        Self { address, failures: 0 }
    }

    /// Something has arrived: failures are counted anew.
    pub fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits until the next attempt, if there is to be one.
    pub fn spend(&mut self, failure: Failure, progress: &dyn Progress) -> Result<()> {
        let (what, wait) = match failure {
            Failure::Passing { what, wait } => (what, wait),
            Failure::Final(error) => return Err(error),
        };
        self.failures += 1;
        if self.failures == FAILURES {
            return Err(Error::GaveUp {
                address: self.address.to_owned(),
                what,
                failures: FAILURES,
            });
        }
        let wait = wait.unwrap_or(FIRST_WAIT * 2u32.pow(self.failures - 1));
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if progress.is_cancelled() {
                return Err(Error::Interrupted);
            }
            thread::sleep(Duration::from_millis(50).min(until - Instant::now()));
        }
        Ok(())
    }
}
