//! A hub that fails: nothing half-downloaded is taken for whole.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::double::{Double, Fault};
use crate::hub::{files, repository};
use crate::support::{contents, shell, text};

const WEIGHTS: &str = "/cdn/original/model.safetensors";

/// A hub with the tiny model, and an empty folder to export into.
pub struct Setting {
    pub there: TempDir,
    pub here: TempDir,
    pub hub: Double,
    pub model: PathBuf,
}

pub fn setting() -> Setting {
    let (there, here) = (repository(), tempfile::tempdir().unwrap());
    let hub = Double::serving(there.path());
    let model = here.path().join("model.onnx");
    Setting { there, here, hub, model }
}

impl Setting {
    pub fn arguments(&self) -> [&str; 4] {
        ["--checkpoint", "owner/tiny/original", "--output", text(&self.model)]
    }

    /// The weights that were fetched are those of the repository.
    fn is_right(&self) -> bool {
        let file = "original/model.safetensors";
        fs::read(self.there.path().join(file)).unwrap()
            == fs::read(self.here.path().join("owner--tiny").join(file)).unwrap()
    }

    /// What has arrived of the weights and is not yet whole.
    fn arrived(&self) -> u64 {
        let unfinished = contents(&self.here.path().join("owner--tiny/.cache")).into_iter();
        let is = |path: &Path| path.extension().is_some_and(|end| end == "incomplete");
        unfinished.filter(|(path, _)| is(path)).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Nothing is there under the name of the weights, and no model.
    pub fn has_no_weights(&self) -> bool {
        !files(self.here.path())
            .iter()
            .any(|file| file.ends_with(".safetensors") || file.ends_with(".onnx"))
    }

    fn weights(&self) -> u64 {
        fs::metadata(self.there.path().join("original/model.safetensors")).unwrap().len()
    }
}

#[test]
fn what_was_cut_goes_on_where_it_was_cut() {
    let it = setting();
    let size = it.weights();
    // After the header: two cuts, the second of what remained after the first.
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Cut(500_000));
    it.hub.fail(WEIGHTS, 1, Fault::Cut(100_000));
    it.hub.export(&it.arguments());
    let ranges: Vec<_> =
        it.hub.requests(WEIGHTS).into_iter().map(|request| request.range).collect();
    let from = |start: u64| Some(format!("bytes={start}-{}", size - 1));
    assert_eq!(ranges, [Some("bytes=0-131071".into()), None, from(500_000), from(600_000)]);
    assert!(it.is_right());
    assert_eq!(it.arrived(), 0);
}

#[test]
fn what_has_arrived_serves_the_next_run() {
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Cut(400_000));
    it.hub.fail(WEIGHTS, 1, Fault::Status(403, ("x-error-message", "not any more")));
    let sentence = it.hub.failure(&it.arguments());
    assert!(
        sentence.contains("`owner/tiny` is not open to all (not any more): accept its terms"),
        "{sentence}"
    );
    assert!(it.has_no_weights());
    assert_eq!(it.arrived(), 400_000);
    it.hub.requests("");
    it.hub.export(&it.arguments());
    let ranges: Vec<_> =
        it.hub.requests(WEIGHTS).into_iter().map(|request| request.range).collect();
    assert_eq!(ranges[1], Some(format!("bytes=400000-{}", it.weights() - 1)));
    assert!(it.is_right());
}

#[test]
fn a_wrong_byte_is_caught() {
    // Once: fetched again.
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Flip(777_777));
    it.hub.export(&it.arguments());
    assert!(it.is_right());

    // In what remained of an earlier run, where the rest is right.
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Cut(400_000));
    it.hub.fail(WEIGHTS, 1, Fault::Status(403, ("x-error-message", "no")));
    it.hub.failure(&it.arguments());
    let unfinished = contents(it.here.path())
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|end| end == "incomplete"));
    let (path, mut bytes) = unfinished.unwrap();
    bytes[1234] ^= 1;
    fs::write(path, bytes).unwrap();
    it.hub.export(&it.arguments());
    assert!(it.is_right());

    // Always, in a large file and in a small one, which has a digest of another kind.
    for (file, at) in [("original/model.safetensors", 500_000), ("original/config.json", 20)] {
        let it = setting();
        it.hub.fail(file, 9, Fault::Flip(at));
        let sentence = it.hub.failure(&it.arguments());
        assert!(
            sentence
                .starts_with(&format!("`{file}` of `owner/tiny` arrived twice with the digest ")),
            "{sentence}"
        );
        assert!(it.has_no_weights());
        assert_eq!(it.arrived(), 0);
    }
}

#[test]
fn a_length_that_is_not_so() {
    // More than there is, and all where a part was asked for.
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::More(10));
    it.hub.fail(WEIGHTS, 1, Fault::Cut(300_000));
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.export(&it.arguments());
    assert!(it.is_right());

    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 9, Fault::More(1));
    let sentence = it.hub.failure(&it.arguments());
    assert!(
        sentence.contains("failed 5 times in a row")
            && sentence.contains("because of an answer of 991681 bytes in place of 991680;"),
        "{sentence}"
    );
    assert!(it.has_no_weights());
}

#[test]
fn a_silent_hub_is_not_waited_for() {
    let it = setting();
    it.hub.fail("?blobs=true", 1, Fault::Stall(10));
    it.hub.fail(WEIGHTS, 1, Fault::Stall(50_000));
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Stall(200_000));
    it.hub.export(&it.arguments());
    let requests = it.hub.requests(WEIGHTS);
    assert_eq!(
        requests[3].range,
        Some(format!("bytes=200000-{}", it.weights() - 1)),
        "{requests:?}"
    );
    assert!(it.is_right());

    let it = setting();
    it.hub.fail("?blobs=true", 9, Fault::Stall(0));
    let sentence = it.hub.failure(&it.arguments());
    assert_eq!(
        sentence,
        "`HUB/api/models/owner/tiny/revision/main?blobs=true` failed 5 times in a row, the last time because of no answer in time; what has arrived of files is kept, and the same command goes on from there"
    );
    assert!(contents(it.here.path()).is_empty());
}

#[test]
fn answers_that_pass_are_asked_again() {
    let it = setting();
    it.hub.fail("?blobs=true", 2, Fault::Status(429, ("retry-after", "1")));
    it.hub.fail("original/config.json", 1, Fault::Status(500, ("x-error-message", "busy")));
    it.hub.fail(WEIGHTS, 1, Fault::Status(503, ("retry-after", "0")));
    it.hub.export(&it.arguments());
    assert!(it.is_right());
    let it = setting();
    it.hub.fail("original/config.json", 9, Fault::Status(500, ("x-error-message", "busy")));
    let sentence = it.hub.failure(&it.arguments());
    assert!(
        sentence.contains("failed 5 times in a row, the last time because of an answer 500"),
        "{sentence}"
    );
}

#[test]
fn two_at_once() {
    let it = setting();
    let records = it.here.path().join("owner--tiny/.cache/huggingface");
    fs::create_dir_all(&records).unwrap();
    let lock = fs::File::create(records.join("gpt-oss-export.lock")).unwrap();
    lock.lock().unwrap();
    let sentence = it.hub.failure(&it.arguments());
    assert!(sentence.starts_with("another export is downloading into `"), "{sentence}");
    drop(lock);
    it.hub.export(&it.arguments());
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_ends_at_once_and_keeps_what_arrived() {
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Stall(300_000));
    let home = it.hub.home.path().display();
    let line = format!(
        "HF_ENDPOINT={} HF_HOME={home} HF_HUB_DOWNLOAD_TIMEOUT=15 NO_PROXY='*' \"$0\" --checkpoint owner/tiny/original --output model.onnx & \
         until find owner--tiny/.cache -size +290k 2>/dev/null | grep -q incomplete; do sleep 0.01; done; \
         kill -INT $!; wait $!; echo $?",
        it.hub.address
    );
    let started = std::time::Instant::now();
    let output = shell(&line, it.here.path());
    assert!(started.elapsed().as_secs() < 10, "it does not wait for the hub");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: interrupted; what has arrived is kept"), "{error}");
    assert!(it.has_no_weights());
    assert_eq!(it.arrived(), 300_000);
    it.hub.export(&it.arguments());
    assert!(it.is_right());
}

#[test]
fn an_answer_of_another_length_costs_nothing() {
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Cut(600_000));
    // As a network's login page, and another part than was asked for.
    it.hub.fail(WEIGHTS, 1, Fault::Page("<html>please log in</html>"));
    it.hub.fail(WEIGHTS, 1, Fault::From(7));
    it.hub.fail(WEIGHTS, 1, Fault::Status(403, ("x-error-message", "no")));
    it.hub.failure(&it.arguments());
    assert_eq!(it.arrived(), 600_000);
    it.hub.requests("");
    it.hub.export(&it.arguments());
    let asked = it.hub.requests(WEIGHTS).pop().unwrap();
    assert_eq!(asked.range, Some(format!("bytes=600000-{}", it.weights() - 1)));
    assert!(it.is_right());
}

#[test]
fn cuts_in_a_second_attempt_are_no_failures_in_a_row() {
    let it = setting();
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Flip(5_000));
    (0..8).for_each(|_| it.hub.fail(WEIGHTS, 1, Fault::Cut(100_000)));
    it.hub.export(&it.arguments());
    assert!(it.is_right());
}

#[cfg(unix)]
#[test]
fn a_stream_that_does_not_end_is_interrupted_at_once() {
    let it = setting();
    // In small pieces, for ten seconds.
    it.hub.fail(WEIGHTS, 1, Fault::Whole);
    it.hub.fail(WEIGHTS, 1, Fault::Slow);
    let home = it.hub.home.path().display();
    let line = format!(
        "HF_ENDPOINT={} HF_HOME={home} NO_PROXY='*' \"$0\" --checkpoint owner/tiny/original --output model.onnx & \
         until find owner--tiny/.cache -size +20k 2>/dev/null | grep -q incomplete; do sleep 0.01; done; \
         kill -INT $!; wait $!; echo $?",
        it.hub.address
    );
    let started = std::time::Instant::now();
    let output = shell(&line, it.here.path());
    assert!(started.elapsed().as_secs() < 8, "it ends while bytes keep coming");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n");
    assert!((20_000..it.weights() / 2).contains(&it.arrived()), "{}", it.arrived());
}
