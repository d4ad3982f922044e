//! A hub on loopback that serves a folder as a repository, as far as the real one
//! matters here, and fails in the ways that it is told to.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;
use tempfile::TempDir;

pub const REPOSITORY: &str = "owner/tiny";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Digests of larger files are made up: nobody fetches them whole.
const HASHED: u64 = 64 << 20;

/// What a request was.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// What happens in place of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing comes after so many bytes of the body, for a while.
    Stall(usize),
    /// Another status, and a header.
    Status(u16, (&'static str, &'static str)),
    /// The byte at this place of the file is another.
    Flip(u64),
    /// So many bytes more are sent than the file has.
    More(usize),
    /// All bytes are sent, whichever were asked for.
    Whole,
    /// Bytes from here on are sent, whichever were asked for.
    From(u64),
    /// A page is sent in place of the file.
    Page(&'static str),
    /// A kilobyte comes every few milliseconds.
    Slow,
}

pub struct Double {
    pub address: String,
    state: Arc<State>,
    /// Where Hugging Face's cache and token would be.
    pub home: TempDir,
}

struct State {
    folder: PathBuf,
    repository: &'static str,
    large: fn(&str) -> bool,
    log: Mutex<Vec<Request>>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
    renamed: Mutex<Option<String>>,
}

impl Double {
    /// Serves the files of a folder.
    pub fn serving(folder: &Path) -> Self {
        Self::serving_as(REPOSITORY, folder)
    }

    /// Serves the files of a folder as a repository of another name.
    pub fn serving_as(repository: &'static str, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            folder: folder.to_owned(),
            repository,
            large: |path| path.ends_with(".safetensors") || path.ends_with("tokenizer.json"),
            log: Mutex::default(),
            faults: Mutex::default(),
            renamed: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || state.answer(stream, port));
            }
        });
        let home = tempfile::tempdir().unwrap();
        Self { address: format!("http://127.0.0.1:{port}"), state, home }
    }

    /// Lets the next `times` requests whose path ends like this fail.
    pub fn fail(&self, path: &str, times: usize, fault: Fault) {
        self.state.faults.lock().unwrap().push((path.to_owned(), times, fault));
    }

    /// Fails no more.
    pub fn forgive(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Answers requests for this repository by sending them to the right one.
    pub fn rename_from(&self, repository: &str) {
        *self.state.renamed.lock().unwrap() = Some(repository.to_owned());
    }

    /// Requests whose path ends like this, since the last time that was asked.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let log = std::mem::take(&mut *self.state.log.lock().unwrap());
        log.into_iter().filter(|request| request.path.ends_with(path)).collect()
    }

    /// The binary, with this hub and nothing else of Hugging Face's around it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"));
        let theirs =
            ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "SSL_CERT_FILE"];
        for name in theirs {
            command.env_remove(name);
        }
        command
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HOME", self.home.path())
            .env("HF_HUB_DOWNLOAD_TIMEOUT", "1")
            .env("NO_PROXY", "*")
            .args(arguments);
        command
    }

    /// Runs the binary, which must succeed, and returns its summary.
    pub fn export(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs the binary, which must fail with status 1, and returns its sentence
    /// with `HUB` for the address.
    pub fn failure(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        self.sentence(&output)
    }

    pub fn sentence(&self, output: &Output) -> String {
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        let sentence = error.strip_prefix("error: ").expect("errors begin with `error: `");
        sentence.trim_end().replace(&self.address, "HUB")
    }
}

/// The digests by which the hub knows a file: of a large one, and of others.
pub fn digest(bytes: &[u8], large: bool) -> String {
    let digest = match large {
        true => sha2::Sha256::digest(bytes).to_vec(),
        false => {
            let header = format!("blob {}\0", bytes.len());
            sha1::Sha1::digest([header.as_bytes(), bytes].concat()).to_vec()
        }
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl State {
    fn answer(&self, stream: TcpStream, port: u16) -> Option<()> {
        let request = read_request(&stream)?;
        let path = request.path.clone();
        self.log.lock().unwrap().push(request.clone());
        let fault = self.fault(&path);
        if let Some(Fault::Status(status, (name, value))) = fault {
            return respond(&stream, status, &[(name, value.to_owned())], b"no");
        }
        if let Some(Fault::Page(page)) = fault {
            return respond(&stream, 200, &[], page.as_bytes());
        }
        let renamed = self.renamed.lock().unwrap().clone();
        if let Some(old) = renamed.filter(|old| path.contains(&format!("/{old}/"))) {
            let there = path.replace(&old, self.repository);
            return respond(&stream, 307, &[("location", there)], b"");
        }
        let path = path.split('?').next()?;
        if path.starts_with("/api/models/") {
            let revision = path.strip_prefix(&format!("/api/models/{}/revision/", self.repository));
            return match revision {
                None => respond(&stream, 404, &[("x-error-code", "RepoNotFound".into())], b""),
                Some("main" | COMMIT | "refs%2Fpr%2F3") => {
                    let body = self.listing().to_string();
                    self.send(&stream, fault, None, &mut std::io::Cursor::new(body))
                }
                Some(_) => {
                    respond(&stream, 404, &[("x-error-code", "RevisionNotFound".into())], b"")
                }
            };
        }
        let resolved = path.strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.repository));
        let file = resolved.or(path.strip_prefix("/cdn/"))?;
        if resolved.is_some() && (self.large)(file) {
            // As the real hub: large files are on another host.
            let there = format!("http://localhost:{port}/cdn/{file}");
            return respond(&stream, 302, &[("location", there)], b"elsewhere");
        }
        match fs::File::open(self.folder.join(file)) {
            Ok(mut file) => self.send(&stream, fault, request.range, &mut file),
            Err(_) => respond(&stream, 404, &[("x-error-code", "EntryNotFound".into())], b""),
        }
    }

    fn fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (_, times, fault) =
            faults.iter_mut().find(|(end, times, _)| *times > 0 && path.ends_with(&**end))?;
        *times -= 1;
        Some(*fault)
    }

    fn listing(&self) -> Value {
        let mut files = BTreeMap::new();
        walk(&self.folder, "", &mut files);
        let sibling = |(path, on_disk): (&String, &PathBuf)| {
            let size = fs::metadata(on_disk).unwrap().len();
            let large = (self.large)(path);
            let digest = match size {
                0..=HASHED => digest(&fs::read(on_disk).unwrap(), large),
                _ => "ab".repeat(32),
            };
            match large {
                true => {
                    json!({"rfilename": path, "size": size, "blobId": "cd".repeat(20), "lfs": {"sha256": digest, "size": size, "pointerSize": 135}})
                }
                false => json!({"rfilename": path, "size": size, "blobId": digest}),
            }
        };
        json!({"id": self.repository, "sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>()})
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        fault: Option<Fault>,
        range: Option<String>,
        file: &mut (impl Read + Seek),
    ) -> Option<()> {
        let size = file.seek(SeekFrom::End(0)).unwrap();
        let range = range.filter(|_| !matches!(fault, Some(Fault::Whole)));
        let (start, end) = match &range {
            Some(range) => {
                let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
                (start.parse().ok()?, end.parse::<u64>().ok()? + 1)
            }
            None => (0, size),
        };
        let start = if let Some(Fault::From(other)) = fault { other } else { start };
        file.seek(SeekFrom::Start(start)).unwrap();
        let mut body = Vec::new();
        file.take(end - start).read_to_end(&mut body).unwrap();
        match fault {
            Some(Fault::Flip(at)) if (start..end).contains(&at) => body[(at - start) as usize] ^= 1,
            Some(Fault::More(count)) => body.resize(body.len() + count, 0),
            _ => {}
        }
        let mut headers = format!("content-length: {}\r\n", body.len());
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        if range.is_some() {
            headers += &format!("content-range: bytes {start}-{}/{size}\r\n", end - 1);
        }
        let head = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        match fault {
            Some(Fault::Cut(count)) => stream.write_all(&body[..count]).ok(),
            Some(Fault::Stall(count)) => {
                stream.write_all(&body[..count]).ok()?;
                thread::sleep(Duration::from_secs(20));
                None
            }
            Some(Fault::Slow) => body.chunks(1000).try_for_each(|piece| {
                thread::sleep(Duration::from_millis(10));
                stream.write_all(piece).ok()
            }),
            _ => stream.write_all(&body).ok(),
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, token: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match &*name.to_lowercase() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

fn respond(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
) -> Option<()> {
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} As told\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()
}

fn walk(folder: &Path, within: &str, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{within}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            walk(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, path);
        }
    }
}
