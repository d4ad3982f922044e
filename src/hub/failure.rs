//! Why a request to the hub failed.

use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use crate::error::{Error, err};

const DENIED: &str = "; if access is restricted, accept the repository's terms on its page on the hub, and set HF_TOKEN to a token of that account";

pub enum Failure {
    /// It may succeed later, after the pause that the hub asked for.
    Transient {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The hub refuses it.
    Refused {
        url: String,
        status: u16,
        code: Option<String>,
        message: Option<String>,
    },
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl Failure {
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None }
    }

    /// No complete response arrived.
    pub fn transport(url: &str, error: ureq::Error) -> Self {
        use ureq::Error::{BodyStalled, ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
        match error {
            Timeout(_) => Self::transient("no response in time"),
            // rustls reports untrusted certificates as I/O errors.
            Io(error) if error.to_string().contains("certificate") => Self::Fatal(err!(
                "`{url}` cannot be trusted: {error}; SSL_CERT_FILE can name the certificates of a private network"
            )),
            Io(error) => Self::transient(error.to_string()),
            HostNotFound => Self::transient("no such host"),
            ConnectionFailed | Protocol(_) | BodyStalled => Self::transient(error.to_string()),
            error => Self::Fatal(err!("cannot request `{url}`: {error}")),
        }
    }

    /// The status of a response is an error.
    pub fn status(url: &str, response: &Response<Body>) -> Self {
        let status = response.status().as_u16();
        if response.status().is_server_error() || [408, 425, 429].contains(&status) {
            let seconds = text(response, "retry-after").and_then(|seconds| seconds.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            return Self::Transient { reason: format!("status {status}"), retry_after };
        }
        let text = |name| text(response, name).map(str::to_owned);
        let (code, message) = (text("x-error-code"), text("x-error-message"));
        Self::Refused { url: url.to_owned(), status, code, message }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fatal(error) => error,
            Failure::Transient { reason, .. } => Self::new(reason),
            Failure::Refused { url, status, message, .. } => {
                let message = message.map_or_else(String::new, |text| format!(": {text}"));
                let advice = if matches!(status, 401 | 403) { DENIED } else { "" };
                err!("`{url}` answered {status}{message}{advice}")
            }
        }
    }
}

pub fn text<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}
