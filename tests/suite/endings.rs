//! However an export ends before its time, the destination is as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gpt_oss_export::export::{ExternalData, Request, Source, Spec, export};
use gpt_oss_export::progress::Progress;
use gpt_oss_export::weights::MatrixFormat;

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

/// A file may have so many blocks of 512 bytes, and the weights have a megabyte: within
/// their header, at its end, within a tensor, just before the end, within the graph, and
/// in each file besides.
#[cfg(unix)]
#[test]
fn a_write_that_fails_at_any_byte_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture("tiny-hf"), &home.path().join("tiny"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::write(home.path().join("tiny").join(name), " ".repeat(5000)).unwrap();
    }
    let generation = home.path().join("tiny/generation_config.json");
    fs::write(generation, "{\"eos_token_id\": 5, \"bos_token_id\": 4, \"pad_token_id\": 6}")
        .unwrap();
    let before = contents(home.path());
    let copy = "--external-data copy --output out/m.onnx";
    let in_place = "--output tiny/m.onnx --genai";
    let converted = "--experts int4 --output out/er/m.onnx";
    let staged = "--save-weights out/w.safetensors --skip-onnx";
    let web = "--transformers-js --output out/onnx/model.onnx";
    let all = [copy, converted, staged, web];
    let mut cases: Vec<(&str, u64)> =
        [0, 1, 8, 9, 100, 1000].iter().flat_map(|blocks| all.map(|it| (it, *blocks))).collect();
    cases.extend([(in_place, 0), (in_place, 2), (in_place, 8), (in_place, 60)]);
    for (arguments, blocks) in cases {
        let line =
            format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --checkpoint tiny {arguments}");
        let output = shell(&line, home.path());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}, {blocks}: {error}");
        let said = error.strip_prefix("error: ").unwrap();
        assert!(
            said.starts_with("cannot write `") || said.starts_with("cannot copy tensor `"),
            "{said}"
        );
        assert!(error.trim_end().ends_with("File too large (os error 27)"), "{error}");
        assert!(contents(home.path()) == before, "{arguments}, {blocks}");
    }
}

/// A disk of its own, where the kernel lets a test have one.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_too_small_is_told_before_the_first_byte() {
    let home = folder_with_tiny();
    fs::create_dir(home.path().join("small")).unwrap();
    let mount = "mount -t tmpfs -o size=512k none small";
    let line = |then: &str| format!("exec unshare -rm sh -c '{mount} && {then}' \"$0\"");
    if !shell(&line("true"), home.path()).status.success() {
        return;
    }
    let export = "{ \"$0\" --checkpoint tiny --output small/out/m.onnx --external-data copy; echo $?; find small; }";
    let output = shell(&line(export), home.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with(
            "error: 996 kB are to be written into `small/out`, where 524 kB are free: make room"
        ),
        "{error}"
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\nsmall\n");
}

/// Whoever comes second is told so, and disturbs nothing.
#[cfg(unix)]
#[test]
fn one_export_writes_into_a_folder_at_a_time() {
    let home = folder_with_tiny();
    let (tiny, model) = (home.path().join("tiny"), home.path().join("out/m.onnx"));
    fs::create_dir(home.path().join("out")).unwrap();
    let other = home.path().join("out/.gpt-oss-export-others.part");
    fs::write(&other, "").unwrap();
    let base = ["--checkpoint", text(&tiny), "--output", text(&model), "--external-data", "copy"];
    let lock = fs::File::open(home.path().join("out")).unwrap();
    lock.lock().unwrap();
    let before = contents(home.path());
    let sentence = failure(&base);
    let expected = format!(
        "another export is writing into `{}`: wait for it, or take another folder",
        home.path().join("out").display()
    );
    assert_eq!(sentence, expected);
    assert_eq!(contents(home.path()), before);
    drop(lock);
    crate::support::export(&base);
    assert!(!other.exists(), "its writer is gone");
    assert_eq!(fs::read_dir(home.path().join("out")).unwrap().count(), 2);
}

/// They share no folder but those above, which one of them makes.
#[cfg(unix)]
#[test]
fn exports_side_by_side_make_their_folders() {
    let home = folder_with_tiny();
    let line = "for at in 1 2 3 4 5 6 7 8; do \
        for k in 1 2 3 4; do \"$0\" --checkpoint tiny --output out/$at/$k/m.onnx --quiet & done; wait; done";
    let output = shell(line, home.path());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    for at in 1..=8 {
        let made = fs::read_dir(home.path().join(format!("out/{at}"))).unwrap();
        assert_eq!(made.count(), 4);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_destination_is_told() {
    let tiny = fixture("tiny");
    for folder in ["/proc", "/proc/sys/kernel"] {
        let model = Path::new(folder).join("m.onnx");
        let sentence = failure(&["--checkpoint", text(&tiny), "--output", text(&model)]);
        assert!(sentence.starts_with(&format!("cannot write `{folder}")), "{sentence}");
    }
}

/// The folder goes away while weights are written.
#[cfg(unix)]
#[test]
fn a_destination_that_vanishes_is_told() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let vanish = AtFirst::new(false, || fs::remove_dir_all(&out).unwrap());
    let spec = spec(&fixture("tiny"), &out.join("m.onnx"), ExternalData::Copy, None);
    let error = export(&spec, &vanish).unwrap_err().to_string();
    assert!(error.starts_with("cannot write `"), "{error}");
    assert!(contents(home.path()).is_empty());
}

/// Nor on how many threads there are, the language, or what folders are called.
#[cfg(target_os = "linux")]
#[test]
fn the_same_input_gives_the_same_bytes() {
    let home = folder_with_tiny();
    copy_folder(&fixture("tiny"), &home.path().join("ünï code/tiny"));
    let export = "--experts int4 --output out/m.onnx";
    let line = format!(
        "\"$0\" --checkpoint tiny {export} && cd 'ünï code' && \
         LC_ALL=de_DE.UTF-8 TZ=Asia/Tokyo taskset -c 0 \"$0\" --checkpoint \"$PWD/tiny\" {export} --quiet"
    );
    let output = shell(&line, home.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = |folder: &str| {
        let folder = home.path().join(folder).join("out");
        let found = contents(&folder).into_iter();
        found
            .map(|(path, bytes)| (path.strip_prefix(&folder).unwrap().to_owned(), bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(files("").len(), 2);
    assert!(files("") == files("ünï code"));
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
    fn begin(&self, _phase: &str, _unit: gpt_oss_export::progress::Unit, _total: u64) {}
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

fn spec(
    checkpoint: &Path,
    output: &Path,
    external_data: ExternalData,
    experts: Option<MatrixFormat>,
) -> Spec {
    let mut request = Request::new(Source::Checkpoint(checkpoint.to_owned()));
    request.output = Some(output.to_owned());
    (request.external_data, request.experts) = (external_data, experts);
    Spec::resolve(request).unwrap()
}

#[test]
fn an_interrupted_conversion_stops_and_leaves_nothing() {
    let home = in_folder("bf16");
    let before = contents(home.path());
    let (checkpoint, model) = (home.path().join("checkpoint"), home.path().join("m.onnx"));
    // Only what is converted is written.
    let spec = spec(&checkpoint, &model, ExternalData::Auto, Some(MatrixFormat::Mxfp4));
    let progress = AtFirst::new(true, || ());
    let error = export(&spec, &progress).unwrap_err();
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
    let spec = spec(&checkpoint, &model, ExternalData::Copy, None);
    let summary = export(&spec, &AtFirst::new(false, || ())).unwrap();
    let copy = summary.weights.written[0].clone();
    let shrink = || fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(100).unwrap();
    let error = export(&spec, &AtFirst::new(false, shrink)).unwrap_err().to_string();
    let expected = format!("`{}` exists and differs from the file to write", copy.display());
    assert!(error.starts_with(&expected), "{error}");
}
