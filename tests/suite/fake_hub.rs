//! A hub on loopback that serves a folder as a repository, and fails on request.

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;

use crate::layout_fixtures::{config, in_layout, write_shards};
use crate::support::{
    Home, binary, contents, copy_folder, fixture, paths, sentence, summary, text, words,
};

pub const REPOSITORY: &str = "owner/tiny";
/// Requests for this name are redirected.
pub const FORMER_NAME: &str = "owner/older";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const LIST: &str = "?blobs=true";
pub const WEIGHTS: &str = "/cdn/original/model.safetensors";
/// How the first request for a SafeTensors header is told from the download of the file.
const HEADER_RANGE: &str = "bytes=0-131071";
/// Digests of larger files are made up, because no test downloads them.
const LARGEST_HASHED: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub struct Request {
    /// The path and query; ` header` follows where only a header is read.
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// A wrong response.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// The connection stalls after so many bytes of the body.
    Stall(usize),
    /// A status and a header, if any.
    Status(u16, &'static str),
    /// The byte at this offset of the file is changed.
    Flip(u64),
    /// So many bytes are appended to the body.
    Append(usize),
    /// The range of the request is ignored.
    IgnoreRange,
    /// The body begins at this offset of the file.
    WrongStart(u64),
    /// The body takes several seconds.
    Slow,
}

pub struct FakeHub {
    pub url: String,
    /// `HF_HOME`.
    pub home: Home,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, which also sets the pauses between attempts.
    pub timeout: &'static str,
    state: Arc<State>,
}

struct State {
    folder: PathBuf,
    repository: &'static str,
    log: Mutex<Vec<Request>>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
}

impl FakeHub {
    pub fn serving_as(repository: &'static str, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            folder: folder.to_owned(),
            repository,
            log: Mutex::default(),
            faults: Mutex::default(),
        });
        let (shared, cdn) = (state.clone(), url.replace("127.0.0.1", "localhost"));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, cdn) = (shared.clone(), cdn.clone());
                thread::spawn(move || state.respond(&stream, &cdn));
            }
        });
        Self { url, home: Home::new(), timeout: "5", state }
    }

    /// Fails the next `times` requests whose path ends like this.
    pub fn fail(&self, path: &str, times: usize, fault: Fault) {
        self.state.faults.lock().unwrap().push((path.to_owned(), times, fault));
    }

    /// Clears the log; returns the requests whose path ends like this.
    pub fn take_requests(&self, path: &str) -> Vec<Request> {
        let log = std::mem::take(&mut *self.state.log.lock().unwrap());
        log.into_iter().filter(|request| request.path.ends_with(path)).collect()
    }

    /// The binary with this hub, and without the Hugging Face settings of this machine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(arguments);
        for name in words("HF_TOKEN HF_TOKEN_PATH HF_HUB_CACHE HF_HUB_OFFLINE SSL_CERT_FILE") {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.url).env("HF_HOME", &*self.home);
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", self.timeout).env("NO_PROXY", "*");
        command
    }

    /// Runs the binary, which must succeed, and returns its summary.
    pub fn export(&self, arguments: &[&str]) -> Value {
        summary(&mut self.command(&[arguments, &["--json"]].concat()))
    }

    /// Runs the binary, which must fail, and returns its sentence.
    pub fn failure(&self, arguments: &[&str]) -> String {
        self.sentence(&mut self.command(arguments))
    }

    /// Runs a command, which must fail, and returns its sentence with `HUB` for the URL, and
    /// `COMMIT` for the commit.
    pub fn sentence(&self, command: &mut Command) -> String {
        sentence(command).replace(&self.url, "HUB").replace(COMMIT, "COMMIT")
    }
}

/// A repository on a fake hub, and an empty folder to export into.
pub struct HubTest {
    pub repository: Home,
    pub here: Home,
    pub hub: FakeHub,
    pub model: PathBuf,
}

impl HubTest {
    /// Serves the tiny model.
    pub fn new() -> Self {
        Self::serving(repository())
    }

    pub fn serving(repository: Home) -> Self {
        let here = Home::new();
        let hub = FakeHub::serving_as(REPOSITORY, &repository);
        let model = here.join("model.onnx");
        Self { repository, here, hub, model }
    }

    /// Arguments for a checkpoint of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> [&'a str; 4] {
        ["--checkpoint", name, "--output", text(&self.model)]
    }

    /// Arguments for the checkpoint in `original`, whose weights are one file.
    pub fn original(&self) -> [&str; 4] {
        self.named("owner/tiny/original")
    }

    /// Arguments for the checkpoint in the root, whose weights are shards.
    pub fn root(&self) -> [&str; 4] {
        self.named(REPOSITORY)
    }

    /// The default download folder.
    pub fn folder(&self) -> PathBuf {
        self.model.with_file_name("owner--tiny")
    }

    pub fn assert_downloaded(&self, file: &str) {
        let [remote, local] = [&*self.repository, &self.folder()].map(|root| root.join(file));
        assert!(local.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(remote).unwrap(), fs::read(local).unwrap(), "{file}");
    }

    pub fn assert_no_weights(&self) {
        let written = files(&self.here);
        let is_data = |file: &String| file.ends_with(".safetensors") || file.ends_with(".onnx");
        assert!(!written.iter().any(is_data), "{written:?}");
    }

    pub fn assert_no_model(&self) {
        assert!(!self.model.exists());
    }

    /// The incomplete download.
    pub fn incomplete(&self) -> Option<(PathBuf, Vec<u8>)> {
        let mut files = contents(&self.here).into_iter();
        files.find(|(path, _)| path.extension().is_some_and(|end| end == "incomplete"))
    }
}

/// A repository like the released ones: Hugging Face's layout in shards, OpenAI's in
/// `original`, the tokenizer, and files that no export needs.
pub fn repository() -> Home {
    let root = Home::new();
    write_shards(&root, &config(), in_layout("hf"));
    copy_folder(&fixture("tiny"), &root.join("original"));
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"] {
        let vocabulary = json!({"vocab": {name: 0}});
        fs::write(root.join(name), json!({"model": vocabulary}).to_string()).unwrap();
    }
    let generation = json!({"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0});
    fs::write(root.join("generation_config.json"), generation.to_string()).unwrap();
    fs::create_dir(root.join("metal")).unwrap();
    fs::write(root.join("metal/model.bin"), vec![0; 100_000]).unwrap();
    root
}

/// The files below a folder, relative to it, without the metadata of downloads.
pub fn files(folder: &Path) -> Vec<String> {
    let files = paths(folder).into_iter().filter(|path| path.is_file());
    let files =
        files.map(|path| text(path.strip_prefix(folder).unwrap()).replace(MAIN_SEPARATOR, "/"));
    files.filter(|path| !path.contains(".cache/")).collect()
}

/// The hub's digest of a file: SHA-256 if it is large, git's object id otherwise.
pub fn digest(bytes: &[u8], large: bool) -> String {
    let digest = if large {
        sha2::Sha256::digest(bytes).to_vec()
    } else {
        let header = format!("blob {}\0", bytes.len());
        sha1::Sha1::digest([header.as_bytes(), bytes].concat()).to_vec()
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Large files are redirected to another host.
fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with("tokenizer.json")
}

impl State {
    fn respond(&self, stream: &TcpStream, cdn: &str) -> Option<()> {
        let mut request = read_request(stream)?;
        let path = request.path.split('?').next()?.to_owned();
        if request.range.as_deref() == Some(HEADER_RANGE) {
            request.path += " header";
        }
        let fault = self.take_fault(&request.path);
        self.log.lock().unwrap().push(request.clone());
        let answer = |status: u16, header: &str| {
            write_head(stream, &format!("{status} X\r\n{header}"), 2)?;
            (&mut &*stream).write_all(b"no").ok()
        };
        if let Some(Fault::Status(status, header)) = fault {
            return answer(status, header);
        }
        let redirect = |status: u16, to: &str| answer(status, &format!("location: {to}"));
        // Redirected by a relative path, and then by an absolute one.
        if path.starts_with(&format!("/api/models/{FORMER_NAME}/")) {
            return redirect(307, &format!("../../../{}/revision/main", self.repository));
        }
        if path.starts_with(&format!("/{FORMER_NAME}/")) {
            return redirect(307, &path.replace(FORMER_NAME, self.repository));
        }
        if let Some(request) = path.strip_prefix("/api/models/") {
            return match request.strip_prefix(&format!("{}/revision/", self.repository)) {
                Some("main" | COMMIT | "refs%2Fpr%2F3") => {
                    self.send(stream, fault, None, &mut Cursor::new(self.list().to_string()))
                }
                Some(_) => answer(404, "x-error-code: RevisionNotFound"),
                None => answer(404, "x-error-code: RepoNotFound"),
            };
        }
        let resolved = path.strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.repository));
        if let Some(file) = resolved.filter(|file| is_large(file)) {
            return redirect(302, &format!("{cdn}/cdn/{file}"));
        }
        match fs::File::open(self.folder.join(resolved.or(path.strip_prefix("/cdn/"))?)) {
            Ok(mut file) => self.send(stream, fault, request.range, &mut file),
            Err(_) => answer(404, "x-error-code: EntryNotFound"),
        }
    }

    fn take_fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (_, times, fault) =
            faults.iter_mut().find(|(end, times, _)| *times > 0 && path.ends_with(&**end))?;
        *times -= 1;
        Some(*fault)
    }

    fn list(&self) -> Value {
        let sibling = |path: String| {
            let (on_disk, large) = (self.folder.join(&path), is_large(&path));
            let size = fs::metadata(&on_disk).unwrap().len();
            let digest = match size {
                0..=LARGEST_HASHED => digest(&fs::read(on_disk).unwrap(), large),
                _ => "ab".repeat(32),
            };
            let lfs = large.then(|| json!({"sha256": digest, "size": size, "pointerSize": 135}));
            let blob = if large { "cd".repeat(20) } else { digest };
            json!({"rfilename": path, "size": size, "blobId": blob, "lfs": lfs})
        };
        let siblings: Vec<_> = files(&self.folder).into_iter().map(sibling).collect();
        json!({"id": self.repository, "sha": COMMIT, "siblings": siblings})
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        fault: Option<Fault>,
        range: Option<String>,
        file: &mut (impl Read + Seek),
    ) -> Option<()> {
        let size = file.seek(SeekFrom::End(0)).unwrap();
        let (mut start, mut end) = (0, size);
        let is_partial = range.is_some() && !matches!(fault, Some(Fault::IgnoreRange));
        if let Some(range) = range.filter(|_| is_partial) {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            (start, end) = (first.parse().ok()?, last.parse::<u64>().ok()? + 1);
        }
        if let Some(Fault::WrongStart(wrong)) = fault {
            start = wrong;
        }
        file.seek(SeekFrom::Start(start)).unwrap();
        let mut body = Vec::new();
        file.take(end - start).read_to_end(&mut body).unwrap();
        match fault {
            Some(Fault::Flip(at)) if (start..end).contains(&at) => body[(at - start) as usize] ^= 1,
            Some(Fault::Append(count)) => body.resize(body.len() + count, 0),
            _ => {}
        }
        let status = if is_partial {
            format!("206 X\r\ncontent-range: bytes {start}-{}/{size}", end.saturating_sub(1))
        } else {
            "200 OK".to_owned()
        };
        write_head(stream, &status, body.len())?;
        match fault {
            Some(Fault::Cut(count)) => stream.write_all(&body[..count]).ok(),
            Some(Fault::Stall(count)) => {
                stream.write_all(&body[..count]).ok()?;
                thread::sleep(Duration::from_secs(20));
                None
            }
            Some(Fault::Slow) => body.chunks(1000).try_for_each(|chunk| {
                thread::sleep(Duration::from_millis(10));
                stream.write_all(chunk).ok()
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

/// Writes a status and headers for a body of this length.
fn write_head(mut stream: &TcpStream, head: &str, length: usize) -> Option<()> {
    let head = head.trim_end();
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()
}
