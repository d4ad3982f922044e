//! Requests to the hub: none waits for ever, and what fails in passing is told
//! from what fails for good.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use fs_err as fs;
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, config::RedirectAuthHeaders};

use super::environment::Environment;
use super::failure::{Failure, Patience};
use super::{Error, Name, Result};
use crate::progress::Progress;

/// How often a wait asks whether it should end.
const TICK: Duration = Duration::from_millis(50);
/// Bytes that arrive in one piece at most.
const CHUNK: usize = 256 << 10;
/// Nothing that is read at once is longer.
const SMALL: u64 = 64 << 20;
/// Pieces that may have arrived and not been taken.
const WAITING: usize = 16;

/// Speaks with one hub.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// An answer that has begun to arrive.
pub struct Answer {
    /// Where in the file its bytes begin.
    pub start: u64,
    pieces: Receiver<Message>,
}

/// What the thread of a request says.
enum Message {
    Head(StatusCode, HeaderMap),
    Piece(Vec<u8>),
    Failed(ureq::Error),
    End,
}

impl Client {
    /// Speaks with the hub of this environment.
    pub fn new(environment: &Environment) -> Result<Self> {
        let patience = Some(environment.patience);
        let mut config = Agent::config_builder()
            .user_agent(concat!("gpt-oss-export/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // A repository that was renamed is on the same host, its large files are not.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .timeout_per_write(patience);
        if let Some(path) = &environment.certificates {
            config = config.tls_config(TlsConfig::builder().root_certs(roots(path)?).build());
        }
        let Environment { endpoint, token, .. } = environment;
        Ok(Self { agent: config.build().into(), endpoint: endpoint.clone(), token: token.clone() })
    }

    /// The address of something on the hub.
    pub fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// What an error means for a repository.
    pub fn explain(&self, error: Error, name: &Name) -> Error {
        error.of(name, self.token.is_some())
    }

    /// Asks for the bytes in `range`, or for all.
    pub fn open(
        &self,
        address: &str,
        range: Option<Range<u64>>,
        progress: &dyn Progress,
    ) -> Result<Answer, Failure> {
        let mut request = self.agent.get(address);
        if let Some(Range { start, end }) = range {
            request = request.header(header::RANGE, format!("bytes={start}-{}", end - 1));
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (sender, pieces) = sync_channel(WAITING);
        // A request that hangs must not keep anyone from ending the program.
        thread::spawn(move || perform(request, &sender));
        let mut answer = Answer { start: 0, pieces };
        let (status, headers) = match answer.next(progress)? {
            Message::Head(status, headers) => (status, headers),
            Message::Failed(error) => return Err(Failure::transport(address, error)),
            Message::Piece(_) | Message::End => unreachable!("an answer begins with its head"),
        };
        if !status.is_success() {
            return Err(Failure::status(address, status, &headers));
        }
        if status == StatusCode::PARTIAL_CONTENT {
            answer.start = first_byte(&headers).ok_or_else(Failure::unclear)?;
        }
        Ok(answer)
    }
}

impl Client {
    /// All bytes of something small, or those in `range`, which may come short
    /// where it ends before.
    pub fn read(
        &self,
        address: &str,
        range: Option<Range<u64>>,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>> {
        let mut patience = Patience::with(address);
        loop {
            match self.attempt(address, range.clone(), progress) {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => patience.spend(failure, progress)?,
            }
        }
    }

    fn attempt(
        &self,
        address: &str,
        range: Option<Range<u64>>,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, Failure> {
        let (start, end) = range.as_ref().map_or((0, SMALL), |range| (range.start, range.end));
        let mut answer = self.open(address, range.clone(), progress)?;
        // Who knows no ranges sends all from the beginning.
        let mut skip = start.checked_sub(answer.start).ok_or_else(Failure::unclear)?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.piece(address, progress)? {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            bytes.extend_from_slice(&piece[skipped as usize..]);
            if bytes.len() as u64 >= end - start {
                bytes.truncate((end - start) as usize);
                break;
            }
        }
        match range {
            Some(_) if (bytes.len() as u64) < end - start => {
                Err(Failure::passing("fewer bytes than were asked for"))
            }
            _ => Ok(bytes),
        }
    }
}

impl Answer {
    /// The next bytes; none at the end.
    pub fn piece(
        &mut self,
        address: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Vec<u8>>, Failure> {
        match self.next(progress)? {
            Message::Piece(bytes) => Ok(Some(bytes)),
            Message::End => Ok(None),
            Message::Failed(error) => Err(Failure::transport(address, error)),
            Message::Head(..) => unreachable!("an answer has one head"),
        }
    }

    fn next(&self, progress: &dyn Progress) -> Result<Message, Failure> {
        loop {
            match self.pieces.recv_timeout(TICK) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Message::End),
            }
            if progress.is_cancelled() {
                return Err(Error::Interrupted.into());
            }
        }
    }
}

/// Sends a request and hands on what comes back, until nobody listens.
fn perform(
    request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    sender: &SyncSender<Message>,
) {
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => return drop(sender.send(Message::Failed(error))),
    };
    let (head, body) = response.into_parts();
    let mut reader = body.into_reader();
    let mut message = Message::Head(head.status, head.headers);
    while sender.send(message).is_ok() {
        let mut bytes = vec![0; CHUNK];
        message = match reader.read(&mut bytes) {
            Ok(0) => return drop(sender.send(Message::End)),
            Ok(count) => {
                bytes.truncate(count);
                Message::Piece(bytes)
            }
            Err(error) => return drop(sender.send(Message::Failed(error.into()))),
        };
    }
}

/// The first byte that an answer to a request for a range says it has.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// The certificates of a file, to be trusted.
fn roots(path: &Path) -> Result<RootCerts> {
    let certificates: Vec<_> = parse_pem(&fs::read(path)?)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(Error::Certificates(path.to_owned())),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
