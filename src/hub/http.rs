//! HTTP requests with byte ranges, retries and cancellation.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, BodyReader};

use super::environment::Environment;
use crate::background::{StopFlag, with_background};
use crate::error::{Error, Kind, Result, ensure, err};
use crate::progress::Progress;

/// Consecutive failures after which a request is given up.
const ATTEMPTS: u32 = 5;
/// The pause after the first failure is the timeout divided by this; it doubles each time.
const FIRST_PAUSE: u32 = 20;
/// The longest pause between attempts, whatever the hub asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
/// The largest response that is read into memory.
const LARGEST_RESPONSE: u64 = 64 << 20;

const DENIED: &str = "; if access is restricted, accept the repository's terms on its page on the hub, and set HF_TOKEN to a token of that account";

pub struct Client<'p> {
    pub environment: Environment,
    agent: Agent,
    progress: &'p dyn Progress,
}

impl<'p> Client<'p> {
    pub fn new(environment: Environment, progress: &'p dyn Progress) -> Result<Self> {
        let timeout = Some(environment.timeout);
        let mut config = Agent::config_builder()
            .user_agent(concat!("gpt-oss-export/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Large files are on another host, which must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .timeout_per_write(timeout);
        if let Some(path) = &environment.certificates {
            config = config.tls_config(TlsConfig::builder().root_certs(roots(path)?).build());
        }
        Ok(Self { environment, agent: config.build().into(), progress })
    }

    /// A whole response of moderate size.
    pub fn read(&self, url: &str) -> Result<Vec<u8>, Failure> {
        self.retry(url, || {
            let mut body = self.send(url, None)?.into_body();
            let bytes = body.with_config().limit(LARGEST_RESPONSE).read_to_vec();
            bytes.map_err(|error| Failure::transport(url, error))
        })
    }

    /// A short byte range of a file of `size` bytes.
    pub fn read_range(&self, url: &str, range: Range<u64>, size: u64) -> Result<Vec<u8>, Failure> {
        self.retry(url, || {
            let (start, mut body) = self.open(url, range.clone(), size)?;
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let skip = io::copy(&mut body.by_ref().take(range.start - start), &mut io::sink());
            let read = skip.and_then(|_| body.read_exact(&mut bytes));
            read.map_err(|error| Failure::transport(url, error.into())).map(|()| bytes)
        })
    }

    /// Requests a byte range of a file of `size` bytes. The body begins at the offset that is
    /// returned: at 0 if the hub ignores ranges.
    pub fn open(
        &self,
        url: &str,
        range: Range<u64>,
        size: u64,
    ) -> Result<(u64, BodyReader<'static>), Failure> {
        let bounds = format!("{}-{}", range.start, range.end.saturating_sub(1));
        let part = (range != (0..size)).then(|| format!("bytes={bounds}"));
        let response = self.send(url, part)?;
        // Another part, or a network's login page, must not replace what was downloaded.
        let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let (name, expected, start) = if is_partial {
            ("content-range", format!("bytes {bounds}/{size}"), range.start)
        } else {
            ("content-length", size.to_string(), 0)
        };
        match text(&response, name) {
            Some(found) if found != expected => {
                Err(Failure::transient(format!("{name} `{found}`, expected `{expected}`")))
            }
            None if is_partial => Err(Failure::transient("no content-range")),
            _ => Ok((start, response.into_body().into_reader())),
        }
    }

    /// Repeats an attempt after transient failures. Cancellation closes its connections.
    pub fn retry<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let watch = |stop: &StopFlag| {
            while !stop.wait_timeout(POLL) {
                if self.progress.is_cancelled() {
                    return self.agent.clone().shutdown();
                }
            }
        };
        let first_pause = self.environment.timeout / FIRST_PAUSE;
        let mut pauses = (0..ATTEMPTS - 1).map(|at| first_pause * (1 << at));
        let work = || loop {
            let (reason, retry_after) = match attempt() {
                Err(Failure::Transient(reason, retry_after)) => (reason, retry_after),
                result => return result,
            };
            self.progress.check_cancelled()?;
            let pause = pauses.next().ok_or_else(|| {
                err!("`{url}` failed {ATTEMPTS} times in a row, last with {reason}: check the network, and try again")
                    .with_kind(Kind::Io)
            })?;
            let end = Instant::now() + retry_after.unwrap_or(pause).min(LONGEST_PAUSE);
            while Instant::now() < end {
                self.progress.check_cancelled()?;
                thread::sleep(POLL.min(end - Instant::now()));
            }
        };
        with_background(watch, work)?.0
    }

    /// Requests a file or a part of it on a thread that may be left behind: name lookups and
    /// connects cannot be interrupted.
    fn send(&self, url: &str, part: Option<String>) -> Result<Response<Body>, Failure> {
        let token = self.environment.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut request = self.agent.get(url);
        for (name, value) in [(header::AUTHORIZATION, token), (header::RANGE, part)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || drop(sender.send(request.call())));
        loop {
            self.progress.check_cancelled()?;
            match receiver.recv_timeout(POLL) {
                Ok(Ok(response)) if response.status().is_success() => return Ok(response),
                Ok(Ok(response)) => return Err(Failure::status(url, &response)),
                Ok(Err(error)) => return Err(Failure::transport(url, error)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::transient("no response"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn roots(path: &Path) -> Result<RootCerts> {
    let file = path.display();
    let cannot_read = |error| {
        err!(
            "cannot read `{file}`, named by SSL_CERT_FILE ({error}): set it to a file of certificates"
        )
    };
    let pem = std::fs::read(path).map_err(|error| cannot_read(error).with_kind(Kind::Io))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    ensure!(
        !certificates.is_empty(),
        "`{file}`, named by SSL_CERT_FILE, contains no certificates: set it to a PEM file of them"
    );
    Ok(certificates.into())
}

pub enum Failure {
    /// Why it failed now; it may succeed later, after the pause that the hub asked for.
    Transient(String, Option<Duration>),
    /// The hub refuses it, by a status and perhaps a code.
    Refused(u16, Option<String>, Error),
    Fatal(Error),
}

impl Failure {
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient(reason.into(), None)
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
            error => Self::Fatal(err!(
                "cannot request `{url}` ({error}): check HF_ENDPOINT and the proxy"
            )),
        }
    }

    /// The status of a response is an error.
    fn status(url: &str, response: &Response<Body>) -> Self {
        let status = response.status().as_u16();
        let text = |name| text(response, name).map(str::to_owned);
        if response.status().is_server_error() || [408, 425, 429].contains(&status) {
            let seconds = text("retry-after").and_then(|seconds| seconds.parse().ok());
            return Self::Transient(format!("status {status}"), seconds.map(Duration::from_secs));
        }
        let message = text("x-error-message").map_or_else(String::new, |it| format!(": {it}"));
        let advice = if matches!(status, 401 | 403) { DENIED } else { "" };
        let error = err!("`{url}` answered {status}{message}{advice}");
        Self::Refused(status, text("x-error-code"), error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fatal(error) | Failure::Refused(.., error) => error,
            Failure::Transient(reason, _) => Self::new(reason),
        }
    }
}

fn text<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}
