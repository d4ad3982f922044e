//! However an export ends before its time, the destination is as it was.

use std::fs;
use std::path::PathBuf;

use crate::support::{contents, copy_folder, failure, fixture, shell, text};

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
