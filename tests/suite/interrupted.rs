//! However an export fails, the destination is left as it was.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use gpt_oss_export::export::{
    AdapterAs, AdapterSource, ExternalData, Request, RequestedAdapter, Source, Spec, export,
};
use gpt_oss_export::progress::Progress;
use gpt_oss_export::weights::MatrixFormat;

use crate::layout_fixtures::in_folder;
use crate::support::{
    Home, assert_ends, assert_starts, binary, contents, copy_folder, export_args, failure, fixture,
    printed, resize, shell, text,
};

const COPY: [&str; 2] = ["--external-data", "copy"];

/// A file may have so many blocks of 512 bytes, and the weights have a megabyte: within
/// their header, at its end, within a tensor, just before the end, within the graph, and
/// in each other file.
#[cfg(unix)]
#[test]
fn write_that_fails_at_any_byte_leaves_nothing() {
    let home = Home::with("tiny-hf");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::write(
            home.checkpoint().join(name),
            r#"{"model": {"vocab": {"a": 0}}}"#.to_owned() + &" ".repeat(5000),
        )
        .unwrap();
    }
    let tokens = r#"{"eos_token_id": 5, "bos_token_id": 4, "pad_token_id": 6}"#;
    fs::write(home.checkpoint().join("generation_config.json"), tokens).unwrap();
    let before = contents(&home);
    let in_place = "--output checkpoint/m.onnx --genai";
    let others = [
        "--external-data copy --output out/m.onnx",
        "--experts int4 --output out/er/m.onnx",
        "--save-weights out/w.safetensors --skip-onnx",
        "--transformers-js --output out/onnx/model.onnx",
    ];
    let cases = [0, 1, 8, 9, 100, 1000].map(|blocks| others.map(|it| (it, blocks)));
    let in_place = [0, 2, 8, 60].map(|blocks| (in_place, blocks));
    for (arguments, blocks) in cases.into_iter().flatten().chain(in_place) {
        let line = format!("ulimit -f {blocks}; exec \"$0\" --checkpoint checkpoint {arguments}");
        let (status, _, error) = shell(&line, &home);
        assert_eq!(status, Some(1), "{arguments}, {blocks}: {error}");
        let starts = ["error: cannot write `", "error: cannot copy tensor `"];
        assert!(starts.iter().any(|start| error.starts_with(start)), "{error}");
        let end = "File too large (os error 27): raise the limit on the size of files (`ulimit -f`), or write to a file system that takes larger ones\n";
        assert_ends(&error, end);
        assert!(contents(&home) == before, "{arguments}, {blocks}");
    }
}

/// Of the files beside a model with both adapters, where there is space.
#[cfg(target_os = "linux")]
fn kilobytes_with_adapters(home: &Path) -> u64 {
    let [one, other] = ["experts", "attention"].map(|name| home.join(name));
    let adapters = ["--adapter", text(&one), "--adapter", text(&other)];
    let (checkpoint, model) = (home.join("checkpoint"), home.join("large/m.onnx"));
    let options = [&COPY[..], &["--adapter-as", "swappable"], &adapters].concat();
    printed(&mut binary(&export_args(&checkpoint, &model, &options)));
    let files = contents(&home.join("large")).into_iter();
    let beside = files.filter(|(path, _)| *path != model);
    (beside.map(|(_, bytes)| bytes.len() as u64).sum::<u64>() + 500) / 1000
}

/// On a file system of its own, if the kernel lets tests mount one. Weights and files of adapters
/// count together.
#[cfg(target_os = "linux")]
#[test]
fn reports_full_disk_before_the_first_byte() {
    let home = Home::with("tiny");
    for name in ["experts", "attention"] {
        copy_folder(&fixture("lora").join(name), &home.join(name));
    }
    fs::create_dir(home.join("small")).unwrap();
    let line = |kilobytes, then: &str| {
        let mount = format!("mount -t tmpfs -o size={kilobytes}k none small");
        format!("exec unshare -rm sh -c '{mount} && {then}' \"$0\"")
    };
    if shell(&line(512, "true"), &home).0 != Some(0) {
        return;
    }
    let export = "--output small/out/m.onnx --external-data copy";
    let adapters = "--adapter-as swappable --adapter experts --adapter attention";
    for (kilobytes, arguments, needed, free) in [
        (512, export.to_owned(), 996, "524 kB"),
        (1024, format!("{export} {adapters}"), kilobytes_with_adapters(&home), "1049 kB"),
    ] {
        let run = format!("{{ \"$0\" --checkpoint checkpoint {arguments}; echo $?; find small; }}");
        let (_, output, error) = shell(&line(kilobytes, &run), &home);
        let expected = format!(
            "error: {needed} kB are needed in `small/out`, and {free} are free: free some space, or choose a folder on another disk\n"
        );
        assert_eq!((&*output, &*error), ("1\nsmall\n", &*expected));
    }
}

#[cfg(unix)]
#[test]
fn one_export_writes_into_a_folder_at_a_time() {
    let home = Home::with("tiny");
    let out = home.join("out");
    fs::create_dir(&out).unwrap();
    let leftover = out.join(".gpt-oss-export-others.part");
    fs::write(&leftover, "").unwrap();
    let lock = fs::File::open(&out).unwrap();
    lock.lock().unwrap();
    let sentence = home.refusal("out/m", &COPY).replace(text(&out), "OUT");
    let expected = "another export is writing into `OUT`: wait for it, or choose another folder";
    assert_eq!(sentence, expected);
    drop(lock);
    home.export("out/m", &COPY);
    assert!(!leftover.exists(), "no export is writing it");
    assert_eq!(fs::read_dir(out).unwrap().count(), 2);
}

/// The folders of these exports share those above, which one export creates.
#[cfg(unix)]
#[test]
fn concurrent_exports_create_their_folders() {
    let home = Home::with("tiny");
    let line = "for at in 1 2 3 4 5 6 7 8; do \
        for k in 1 2 3 4; do \"$0\" --checkpoint checkpoint --output out/$at/$k/m.onnx --quiet & done; wait; done";
    assert_eq!(shell(line, &home).2, "");
    for at in 1..=8 {
        assert_eq!(fs::read_dir(home.join(format!("out/{at}"))).unwrap().count(), 4);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn reports_read_only_destination() {
    for folder in ["/proc", "/proc/sys/kernel"] {
        let model = Path::new(folder).join("m.onnx");
        let sentence = failure(&export_args(&fixture("tiny"), &model, &[]));
        assert_starts(&sentence, &format!("cannot write `{folder}"));
    }
}

/// Nor do bytes depend on threads, the language, or names of folders.
#[cfg(target_os = "linux")]
#[test]
fn same_input_gives_same_bytes() {
    let home = Home::with("tiny");
    copy_folder(&fixture("tiny"), &home.join("ünï code/tiny"));
    let export = "--experts int4 --output out/m.onnx";
    let line = format!(
        "\"$0\" --checkpoint checkpoint {export} && cd 'ünï code' && \
         LC_ALL=de_DE.UTF-8 TZ=Asia/Tokyo taskset -c 0 \"$0\" --checkpoint \"$PWD/tiny\" {export} --quiet"
    );
    let (status, _, error) = shell(&line, &home);
    assert_eq!(status, Some(0), "{error}");
    let [one, other] = ["out", "ünï code/out"].map(|folder| {
        let folder = home.join(folder);
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
    let home = Home::new();
    crate::sizes::sparse(&home.checkpoint(), 24, 32, 1);
    for signal in ["INT", "TERM"] {
        let line = format!(
            "\"$0\" --checkpoint checkpoint --output out/er/m.onnx --external-data copy & \
             while ! ls out/er/.gpt-oss-export-* >&2 2>/dev/null; do sleep 0.01; done; \
             kill -{signal} $!; wait $!; echo $?"
        );
        let (_, output, error) = shell(&line, &home);
        assert_eq!(output, "1\n", "{error}");
        assert_ends(&error, "error: interrupted\n");
        assert_eq!(fs::read_dir(&*home).unwrap().count(), 1);
    }
}

/// Acts at the first report of progress, and cancels then if asked to.
pub struct AtFirst<F> {
    act: F,
    cancels: bool,
    reports: AtomicU64,
}

fn at_first<F: Fn() + Sync>(act: F) -> AtFirst<F> {
    AtFirst { act, cancels: false, reports: AtomicU64::new(0) }
}

pub fn cancelled_at_once() -> AtFirst<impl Fn() + Sync> {
    AtFirst { cancels: true, ..at_first(|| ()) }
}

impl<F: Fn() + Sync> Progress for AtFirst<F> {
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
    let home = Home::new();
    let out = home.join("out");
    let vanish = at_first(|| fs::remove_dir_all(&out).unwrap());
    let error = export(&copy_of_tiny(&out.join("m.onnx")), &vanish).unwrap_err().to_string();
    assert_starts(&error, "cannot write `");
    assert!(contents(&home).is_empty());
}

#[test]
fn interrupted_conversion_stops_and_leaves_nothing() {
    let home = in_folder("bf16");
    let before = contents(&home);
    // Only converted weights are written.
    let mut request = Request::new(Source::Checkpoint(home.checkpoint()));
    request.output = Some(home.join("m.onnx"));
    request.experts = Some(MatrixFormat::Mxfp4);
    let progress = cancelled_at_once();
    let error = export(&Spec::resolve(request).unwrap(), &progress).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    assert_eq!(contents(&home), before);
    // Of 48 experts with two parts each, only those under way were written.
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(progress.reports.into_inner() <= 2 * threads.min(8));
}

/// Two adapters have copies of the checkpoint's values, which are read in turn.
#[test]
fn comparing_adapters_with_their_base_is_reported_and_can_be_interrupted() {
    let home = Home::with("tiny-hf");
    for adapter_as in [AdapterAs::Inline, AdapterAs::Merge, AdapterAs::Swappable] {
        let mut request = Request::new(Source::Checkpoint(home.checkpoint()));
        request.output = Some(home.join("m.onnx"));
        request.adapter_as = adapter_as;
        let adapters = ["router-head", "embedding"].map(|name| {
            let path = fixture("lora").join(name);
            let source = AdapterSource { path, ..AdapterSource::default() };
            RequestedAdapter { source, hub: None }
        });
        request.adapters = adapters.into();
        let progress = cancelled_at_once();
        let error = export(&Spec::resolve(request).unwrap(), &progress).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        // The adapter's values and the checkpoint's.
        assert_eq!(progress.reports.into_inner(), 2);
        assert_eq!(fs::read_dir(&*home).unwrap().count(), 1);
    }
}

/// The existing copy, not the source, changes.
#[test]
fn copy_that_shrinks_while_it_is_compared_is_another_file() {
    let home = Home::new();
    let spec = copy_of_tiny(&home.join("m.onnx"));
    let summary = export(&spec, &at_first(|| ())).unwrap();
    let copy = &summary.weights.written[0];
    let error = export(&spec, &at_first(|| resize(copy, |_| 100))).unwrap_err().to_string();
    let expected = format!("`{}` exists and differs from the file to write", copy.display());
    assert_starts(&error, &expected);
}
