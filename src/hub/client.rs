//! Requests to the hub: none waits for ever, and what fails in passing is told
//! from what fails for good.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use fs_err as fs;
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, RequestBuilder, typestate::WithoutBody};

use super::environment::Environment;
use super::failure::{Failure, Patience, text};
use super::{Error, Result};
use crate::progress::Progress;

/// How often a wait asks whether it should end.
const TICK: Duration = Duration::from_millis(50);
/// Bytes that arrive in one piece at most.
const CHUNK: usize = 256 << 10;
/// Nothing that is read at once is longer, or takes longer.
const SMALL: u64 = 64 << 20;
const SOON: Duration = Duration::from_secs(300);
/// Pieces that may have arrived and not been taken.
const WAITING: usize = 16;
/// Other addresses to which one request may be sent.
const REDIRECTS: usize = 10;

/// Speaks with one hub.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// Bytes that have begun to arrive.
pub struct Answer {
    /// Where in the file they begin.
    pub start: u64,
    /// Where they end, if the answer says it.
    pub end: Option<u64>,
    /// How long the file is, if the answer says it.
    pub size: Option<u64>,
    pieces: Pieces,
}

/// What the thread of a request says.
struct Pieces(Receiver<Message>);

enum Message {
    Head(StatusCode, HeaderMap),
    Piece(Vec<u8>),
    Failed(ureq::Error),
    End,
}

impl Client {
    /// Speaks with the hub of this environment.
    pub fn new(environment: &Environment) -> Result<Self> {
        let silence = Some(environment.silence);
        let mut config = Agent::config_builder()
            .user_agent(concat!("gpt-oss-export/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Followed here, where it is known who may see the token.
            .max_redirects(0)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence);
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

    /// Whether the hub is told who asks.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for the bytes in `range`, or for all.
    pub fn open(
        &self,
        address: &str,
        range: Option<Range<u64>>,
        progress: &dyn Progress,
    ) -> Result<Answer, Failure> {
        let mut there = address.to_owned();
        for _ in 0..=REDIRECTS {
            let pieces = self.send(&there, range.clone());
            let (status, headers) = match pieces.next(progress)? {
                Message::Head(status, headers) => (status, headers),
                Message::Failed(error) => return Err(Failure::transport(address, error)),
                Message::Piece(_) | Message::End => return Err(Failure::passing("no answer")),
            };
            if status.is_redirection() {
                let target = text(&headers, header::LOCATION).ok_or_else(Failure::unclear)?;
                there = moved(&there, target).ok_or_else(Failure::unclear)?;
                continue;
            }
            if !status.is_success() {
                return Err(Failure::status(address, status, &headers));
            }
            return Answer::begun(status, &headers, pieces);
        }
        let reason = format!("it leads on more than {REDIRECTS} times");
        Err(Error::Request { address: address.to_owned(), reason }.into())
    }

    fn send(&self, address: &str, range: Option<Range<u64>>) -> Pieces {
        let mut request = self.agent.get(address);
        if let Some(Range { start, end }) = range {
            request = request.header(header::RANGE, format!("bytes={start}-{}", end - 1));
        }
        // Large files are on another host, which must not know it.
        if let Some(token) =
            self.token.as_ref().filter(|_| origin(address) == origin(&self.endpoint))
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (sender, pieces) = sync_channel(WAITING);
        // A request that hangs must not keep anyone from ending the program.
        thread::spawn(move || perform(request, &sender));
        Pieces(pieces)
    }

    /// All bytes of something small, or those in `range`.
    pub fn read(
        &self,
        address: &str,
        range: Option<Range<u64>>,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>> {
        let mut patience = Patience::with(address);
        loop {
            match self.read_once(address, range.clone(), progress) {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => patience.spend(failure, progress)?,
            }
        }
    }

    fn read_once(
        &self,
        address: &str,
        range: Option<Range<u64>>,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, Failure> {
        let until = Instant::now() + SOON;
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
                return Ok(bytes);
            }
            if Instant::now() > until {
                return Err(Failure::passing("an answer that takes too long"));
            }
        }
        match range {
            Some(_) => Err(Failure::passing("fewer bytes than were asked for")),
            None => Ok(bytes),
        }
    }
}

impl Answer {
    fn begun(status: StatusCode, headers: &HeaderMap, pieces: Pieces) -> Result<Self, Failure> {
        if status == StatusCode::PARTIAL_CONTENT {
            let (start, end, size) = text(headers, header::CONTENT_RANGE)
                .and_then(content_range)
                .ok_or_else(Failure::unclear)?;
            return Ok(Self { start, end: Some(end), size, pieces });
        }
        let size = text(headers, header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        Ok(Self { start: 0, end: size, size, pieces })
    }

    /// The next bytes; none at the end.
    pub fn piece(
        &mut self,
        address: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Vec<u8>>, Failure> {
        match self.pieces.next(progress)? {
            Message::Piece(bytes) => Ok(Some(bytes)),
            Message::Failed(error) => Err(Failure::transport(address, error)),
            Message::End | Message::Head(..) => Ok(None),
        }
    }
}

impl Pieces {
    fn next(&self, progress: &dyn Progress) -> Result<Message, Failure> {
        loop {
            if progress.is_cancelled() {
                return Err(Error::Interrupted.into());
            }
            match self.0.recv_timeout(TICK) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Message::End),
            }
        }
    }
}

/// Sends a request and hands on what comes back, until nobody listens.
fn perform(request: RequestBuilder<WithoutBody>, sender: &SyncSender<Message>) {
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

/// `bytes 5-9/20`: where they begin and end, and how long the file is.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    Some((start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, size.parse().ok()))
}

/// Scheme, host and port of an address.
fn origin(address: &str) -> &str {
    let host = address.find("://").map_or(0, |at| at + 3);
    let end = address[host..].find(['/', '?', '#']).map_or(address.len(), |at| host + at);
    &address[..end]
}

/// Where `target` leads from an address.
fn moved(from: &str, target: &str) -> Option<String> {
    match target {
        _ if target.starts_with("https://") || target.starts_with("http://") => {
            Some(target.to_owned())
        }
        _ if target.starts_with("//") => Some(format!("{}:{target}", from.split_once(':')?.0)),
        _ if target.starts_with('/') => Some(format!("{}{target}", origin(from))),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ranges() {
        assert_eq!(origin("https://hub.example:8080/a/b?c"), "https://hub.example:8080");
        assert_eq!(origin("http://hub.example"), "http://hub.example");
        let moved = |target| moved("https://hub.example/a/b", target);
        assert_eq!(moved("/c").as_deref(), Some("https://hub.example/c"));
        assert_eq!(moved("//cdn.example/c").as_deref(), Some("https://cdn.example/c"));
        assert_eq!(moved("http://cdn.example/c").as_deref(), Some("http://cdn.example/c"));
        assert_eq!((moved("file:///etc/passwd"), moved("c")), (None, None));
        assert_eq!(content_range("bytes 5-9/20"), Some((5, 10, Some(20))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 10, None)));
        let wrong = ["bytes */20", "bytes 5-18446744073709551615/*", "items 5-9/20", "bytes 5-/20"];
        assert!(wrong.into_iter().all(|text| content_range(text).is_none()));
    }
}
