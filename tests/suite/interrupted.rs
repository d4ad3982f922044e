//! However an export fails, the destination is left as it was.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use gpt_oss_export::export::{ExternalData, Request, Source, Spec, export};
use gpt_oss_export::progress::{Progress, Unit};
use gpt_oss_export::weights::MatrixFormat;

use crate::derived::in_folder;
use crate::support::{
    contents, copy_folder, export_args, failure, fixture, folder_with_tiny, shell,
};

/// Exports the tiny checkpoint in a folder, which must fail and change nothing in it.
fn failure_in(home: &Path, model: &str, options: &[&str]) -> String {
    let before = contents(home);
    let sentence = failure(&export_args(&fixture("tiny"), &home.join(model), options));
    assert!(contents(home) == before);
    sentence
}

#[test]
fn refuses_destination_that_is_or_needs_another_kind_of_file() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("model.onnx")).unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    let sentence = failure_in(home.path(), "model.onnx", &[]);
    assert!(sentence.ends_with("model.onnx` is a folder, expected a file to write"), "{sentence}");
    let sentence = failure_in(home.path(), "file/model.onnx", &[]);
    assert!(sentence.starts_with("cannot write `"), "{sentence}");
}

/// A file may have so many blocks of 512 bytes, and the weights have a megabyte: within
/// their header, at its end, within a tensor, just before the end, within the graph, and
/// in each other file.
#[cfg(unix)]
#[test]
fn write_that_fails_at_any_byte_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&fixture("tiny-hf"), &home.path().join("tiny"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::write(home.path().join("tiny").join(name), " ".repeat(5000)).unwrap();
    }
    let tokens = r#"{"eos_token_id": 5, "bos_token_id": 4, "pad_token_id": 6}"#;
    fs::write(home.path().join("tiny/generation_config.json"), tokens).unwrap();
    let before = contents(home.path());
    let in_place = "--output tiny/m.onnx --genai";
    let others = [
        "--external-data copy --output out/m.onnx",
        "--experts int4 --output out/er/m.onnx",
        "--save-weights out/w.safetensors --skip-onnx",
        "--transformers-js --output out/onnx/model.onnx",
    ];
    let cases = [0, 1, 8, 9, 100, 1000].map(|blocks| others.map(|it| (it, blocks)));
    let in_place = [0, 2, 8, 60].map(|blocks| (in_place, blocks));
    for (arguments, blocks) in cases.into_iter().flatten().chain(in_place) {
        let line =
            format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --checkpoint tiny {arguments}");
        let output = shell(&line, home.path());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}, {blocks}: {error}");
        let starts = ["error: cannot write `", "error: cannot copy tensor `"];
        assert!(starts.iter().any(|start| error.starts_with(start)), "{error}");
        assert!(error.trim_end().ends_with("File too large (os error 27)"), "{error}");
        assert!(contents(home.path()) == before, "{arguments}, {blocks}");
    }
}

/// On a file system of its own, if the kernel lets tests mount one.
#[cfg(target_os = "linux")]
#[test]
fn reports_full_disk_before_the_first_byte() {
    let home = folder_with_tiny();
    fs::create_dir(home.path().join("small")).unwrap();
    let mount = "mount -t tmpfs -o size=512k none small";
    let line = |then: &str| format!("exec unshare -rm sh -c '{mount} && {then}' \"$0\"");
    if !shell(&line("true"), home.path()).status.success() {
        return;
    }
    let export = "{ \"$0\" --checkpoint tiny --output small/out/m.onnx --external-data copy; echo $?; find small; }";
    let output = shell(&line(export), home.path());
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: 996 kB are needed in `small/out`, and 524 kB are free: free some space, or choose a folder on another disk\n"
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\nsmall\n");
}

#[cfg(unix)]
#[test]
fn one_export_writes_into_a_folder_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    fs::create_dir(&out).unwrap();
    let leftover = out.join(".gpt-oss-export-others.part");
    fs::write(&leftover, "").unwrap();
    let lock = fs::File::open(&out).unwrap();
    lock.lock().unwrap();
    let options = ["--external-data", "copy"];
    let expected = format!(
        "another export is writing into `{}`: wait for it, or choose another folder",
        out.display()
    );
    assert_eq!(failure_in(home.path(), "out/m.onnx", &options), expected);
    drop(lock);
    crate::support::export(&export_args(&fixture("tiny"), &out.join("m.onnx"), &options));
    assert!(!leftover.exists(), "no export is writing it");
    assert_eq!(fs::read_dir(out).unwrap().count(), 2);
}

/// The folders of these exports share those above, which one export creates.
#[cfg(unix)]
#[test]
fn concurrent_exports_create_their_folders() {
    let home = folder_with_tiny();
    let line = "for at in 1 2 3 4 5 6 7 8; do \
        for k in 1 2 3 4; do \"$0\" --checkpoint tiny --output out/$at/$k/m.onnx --quiet & done; wait; done";
    let output = shell(line, home.path());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    for at in 1..=8 {
        let created = fs::read_dir(home.path().join(format!("out/{at}"))).unwrap();
        assert_eq!(created.count(), 4);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn reports_read_only_destination() {
    for folder in ["/proc", "/proc/sys/kernel"] {
        let model = Path::new(folder).join("m.onnx");
        let sentence = failure(&export_args(&fixture("tiny"), &model, &[]));
        assert!(sentence.starts_with(&format!("cannot write `{folder}")), "{sentence}");
    }
}

/// Nor do bytes depend on threads, the language, or names of folders.
#[cfg(target_os = "linux")]
#[test]
fn same_input_gives_same_bytes() {
    let home = folder_with_tiny();
    copy_folder(&fixture("tiny"), &home.path().join("ünï code/tiny"));
    let export = "--experts int4 --output out/m.onnx";
    let line = format!(
        "\"$0\" --checkpoint tiny {export} && cd 'ünï code' && \
         LC_ALL=de_DE.UTF-8 TZ=Asia/Tokyo taskset -c 0 \"$0\" --checkpoint \"$PWD/tiny\" {export} --quiet"
    );
    let output = shell(&line, home.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [one, other] = ["out", "ünï code/out"].map(|folder| {
        let folder = home.path().join(folder);
        let files = contents(&folder).into_iter();
        let relative = |path: &Path| path.strip_prefix(&folder).unwrap().to_owned();
        files.map(|(path, bytes)| (relative(&path), bytes)).collect::<Vec<_>>()
    });
    assert_eq!(one.len(), 2);
    assert!(one == other);
}

#[cfg(unix)]
#[test]
fn interrupted_copy_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    crate::sizes::sparse(&home.path().join("checkpoint"), 24, 32, 1);
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
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}

/// Does something at the first report of progress, and cancels the export then if asked to.
struct AtFirst<F> {
    act: F,
    cancels: bool,
    reports: AtomicU64,
}

impl<F: Fn() + Sync> AtFirst<F> {
    fn new(cancels: bool, act: F) -> Self {
        Self { act, cancels, reports: AtomicU64::new(0) }
    }
}

impl<F: Fn() + Sync> Progress for AtFirst<F> {
    fn begin(&self, _phase: &str, _unit: Unit, _total: u64) {}
    fn end(&self) {}

    fn advance(&self, _bytes: u64) {
        if self.reports.fetch_add(1, Ordering::Relaxed) == 0 {
            (self.act)();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancels && self.reports.load(Ordering::Relaxed) > 0
    }
}

fn copy_of_tiny(model: &Path) -> Spec {
    let mut request = Request::new(Source::Checkpoint(fixture("tiny")));
    (request.output, request.external_data) = (Some(model.to_owned()), ExternalData::Copy);
    Spec::resolve(request).unwrap()
}

#[cfg(unix)]
#[test]
fn reports_destination_that_vanishes_while_weights_are_written() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let vanish = AtFirst::new(false, || fs::remove_dir_all(&out).unwrap());
    let error = export(&copy_of_tiny(&out.join("m.onnx")), &vanish).unwrap_err().to_string();
    assert!(error.starts_with("cannot write `"), "{error}");
    assert!(contents(home.path()).is_empty());
}

#[test]
fn interrupted_conversion_stops_and_leaves_nothing() {
    let home = in_folder("bf16");
    let before = contents(home.path());
    // Only converted weights are written.
    let mut request = Request::new(Source::Checkpoint(home.path().join("checkpoint")));
    request.output = Some(home.path().join("m.onnx"));
    request.experts = Some(MatrixFormat::Mxfp4);
    let progress = AtFirst::new(true, || ());
    let error = export(&Spec::resolve(request).unwrap(), &progress).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    assert_eq!(contents(home.path()), before);
    // Of 48 experts with two parts each, only those under way were written.
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(progress.reports.into_inner() <= 2 * threads.min(8));
}

/// The existing copy, not the source, changes.
#[test]
fn copy_that_shrinks_while_it_is_compared_is_another_file() {
    let home = tempfile::tempdir().unwrap();
    let spec = copy_of_tiny(&home.path().join("m.onnx"));
    let summary = export(&spec, &AtFirst::new(false, || ())).unwrap();
    let copy = &summary.weights.written[0];
    let shrink = || fs::File::options().write(true).open(copy).unwrap().set_len(100).unwrap();
    let error = export(&spec, &AtFirst::new(false, shrink)).unwrap_err().to_string();
    let expected = format!("`{}` exists and differs from the file to write", copy.display());
    assert!(error.starts_with(&expected), "{error}");
}
