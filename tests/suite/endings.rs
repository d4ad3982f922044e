//! However an export ends before its time, the destination is as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gpt_oss_export::checkpoint::Leniency;
use gpt_oss_export::export::{self, ExternalData, Formats, Origin, Request};
use gpt_oss_export::model::Options;
use gpt_oss_export::progress::Progress;
use gpt_oss_export::weights::Format;

use crate::derived::in_folder;
use crate::support::{contents, copy_folder, failure, fixture, folder_with_tiny, shell, text};

#[test]
fn a_destination_that_cannot_be_written_stays_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let occupied: PathBuf = home.path().join("model.onnx");
    fs::create_dir(&occupied).unwrap();
    let before = contents(home.path());
    let sentence = failure(&["--checkpoint", text(&fixture("tiny")), "--output", text(&occupied)]);
    assert!(sentence.contains("is a folder, not a file to write"), "{sentence}");
    assert_eq!(contents(home.path()), before);

    fs::write(home.path().join("file"), "").unwrap();
    let before = contents(home.path());
    let below = home.path().join("file/model.onnx");
    let sentence = failure(&["--checkpoint", text(&fixture("tiny")), "--output", text(&below)]);
    assert!(sentence.starts_with("cannot write `"), "{sentence}");
    assert_eq!(contents(home.path()), before);
}

#[cfg(unix)]
#[test]
fn a_write_that_fails_half_way_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture("tiny"), &home.path().join("tiny"));
    let before = contents(home.path());
    // Files may have 512 kB here, and the weights have twice that.
    let line = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" --checkpoint tiny --output out/m.onnx --external-data copy";
    let output = shell(line, home.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.starts_with("error: cannot copy tensor `") && error.contains("` to `out/weights-"),
        "{error}"
    );
    assert_eq!(contents(home.path()), before);
}

#[cfg(unix)]
#[test]
fn an_interrupted_copy_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let checkpoint = home.path().join("checkpoint");
    crate::sizes::sparse(&checkpoint, 24, 32, 1);
    let before: Vec<_> =
        fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for signal in ["INT", "TERM"] {
        let line = format!(
            "\"$0\" --checkpoint checkpoint --output out/er/m.onnx --external-data copy & \
             while ! ls out/er/.gpt-oss-export-* >&2 2>/dev/null; do sleep 0.01; done; \
             kill -{signal} $!; wait $!; echo $?"
        );
        let output = shell(&line, home.path());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n", "{error}");
        assert!(error.ends_with("error: interrupted\n"), "{error}");
        let after: Vec<_> =
            fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(before, after);
    }
}

/// Does something at the first report of progress, and may ask to stop from then on.
struct AtFirst<F> {
    act: F,
    stop: bool,
    reports: AtomicU64,
}

impl<F: Fn() + Sync> AtFirst<F> {
    fn new(stop: bool, act: F) -> Self {
        Self { act, stop, reports: AtomicU64::new(0) }
    }
}

impl<F: Fn() + Sync> Progress for AtFirst<F> {
    fn begin(&self, _phase: &str, _bytes: u64) {}
    fn end(&self) {}

    fn advance(&self, _bytes: u64) {
        if self.reports.fetch_add(1, Ordering::Relaxed) == 0 {
            (self.act)();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.stop && self.reports.load(Ordering::Relaxed) > 0
    }
}

/// A copy beside the model.
fn request(checkpoint: &Path, output: &Path, experts: Option<Format>) -> Request {
    Request {
        origin: Origin::Checkpoint(checkpoint.to_owned()),
        output: Some(output.to_owned()),
        save_weights: None,
        external_data: ExternalData::Copy,
        layers: None,
        leniency: Leniency::default(),
        formats: Formats { experts, ..Formats::default() },
        graph: Options::default(),
        genai: None,
        max_shard_size: None,
    }
}

#[test]
fn an_interrupted_conversion_stops_and_leaves_nothing() {
    let home = in_folder("bf16");
    let before = contents(home.path());
    let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("m.onnx"));
    // Only what is converted is written.
    let auto = ExternalData::Auto;
    let request =
        Request { external_data: auto, ..request(&checkpoint, &model, Some(Format::Mxfp4)) };
    let progress = AtFirst::new(true, || ());
    let error = export::export(&request, &progress).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    assert_eq!(contents(home.path()), before);
    // 48 experts are two products each; a few were under way.
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(progress.reports.into_inner() <= 2 * threads.min(8));
}

/// The copy that is there, not the source, changes while the two are compared.
#[test]
fn a_copy_that_shrinks_while_it_is_compared_is_another_file() {
    let home = folder_with_tiny();
    let (checkpoint, model) = (home.path().join("tiny"), home.path().join("m.onnx"));
    let request = request(&checkpoint, &model, None);
    let summary = export::export(&request, &AtFirst::new(false, || ())).unwrap();
    let copy = summary.weights.written[0].clone();
    let shrink = || fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(100).unwrap();
    let error = export::export(&request, &AtFirst::new(false, shrink)).unwrap_err().to_string();
    let expected = format!("`{}` exists and is not what this export would write", copy.display());
    assert!(error.starts_with(&expected), "{error}");
}
