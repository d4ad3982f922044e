//! Downloads from a hub that fails: resumed, checked, and never taken for complete too early.

use std::fs;
use std::time::{Duration, Instant};

use crate::fake_hub::{Fault, HubTest, LIST, WEIGHTS};
use crate::support::{assert_contains, assert_starts, contents, shell, text};

const FILE: &str = "original/model.safetensors";
const SIZE: u64 = 991_680;
const DENIED: Fault = Fault::Status(403, "x-error-message: not any more");

/// Exports with these faults of the weights; returns the first bytes of its requests.
fn export_with(test: &HubTest, faults: &[Fault]) -> Vec<u64> {
    faults.iter().for_each(|fault| test.hub.fail(WEIGHTS, 1, *fault));
    test.hub.take_requests("");
    test.hub.export(&test.original());
    test.assert_downloaded(FILE);
    assert!(test.incomplete().is_none());
    let requests = test.hub.take_requests(WEIGHTS).into_iter();
    let start = |range: String| {
        range.strip_suffix(&format!("-{}", SIZE - 1))?.strip_prefix("bytes=")?.parse().ok()
    };
    requests.map(|request| request.range.map_or(0, |range| start(range).unwrap())).collect()
}

/// Exports with these faults of the weights, the last of which is final.
fn fail_with(test: &HubTest, faults: &[Fault]) -> String {
    faults.iter().for_each(|fault| test.hub.fail(WEIGHTS, 1, *fault));
    let sentence = test.hub.failure(&test.original());
    test.assert_no_weights();
    sentence
}

#[test]
fn resumes_interrupted_download() {
    for (faults, starts) in [
        ([Fault::Cut(500_000), Fault::Cut(100_000)], &[0, 500_000, 600_000][..]),
        // A hub that ignores ranges sends everything again.
        ([Fault::Cut(300_000), Fault::IgnoreRange], &[0, 300_000]),
    ] {
        assert_eq!(export_with(&HubTest::new(), &faults), starts);
    }
    let test = HubTest::new();
    let sentence = fail_with(&test, &[Fault::Cut(400_000), DENIED]);
    let start = "`HUB/owner/tiny/resolve/COMMIT/original/model.safetensors` answered 403: not any more; if access is restricted";
    assert_starts(&sentence, start);
    assert_eq!(test.incomplete().unwrap().1.len(), 400_000);
    assert_eq!(export_with(&test, &[]), [400_000], "in the next run");
}

#[test]
fn downloads_again_after_wrong_digest() {
    assert_eq!(export_with(&HubTest::new(), &[Fault::Flip(777_777)]), [0, 0]);
    // Wrong bytes of an earlier run.
    let test = HubTest::new();
    fail_with(&test, &[Fault::Cut(400_000), DENIED]);
    let (path, mut bytes) = test.incomplete().unwrap();
    bytes[1234] ^= 1;
    fs::write(path, bytes).unwrap();
    assert_eq!(export_with(&test, &[]), [400_000, 0]);
    // In the second attempt too, failures are only in a row if no bytes arrive between them.
    let mut faults = vec![Fault::Flip(5_000)];
    faults.extend([Fault::Cut(100_000); 8]);
    assert_eq!(export_with(&HubTest::new(), &faults).len(), 10);
}

#[test]
fn gives_up_after_second_wrong_digest() {
    for (file, offset) in [(FILE, 500_000), ("original/config.json", 20)] {
        let test = HubTest::new();
        test.hub.fail(file, 9, Fault::Flip(offset));
        let expected = format!("`{file}` of `owner/tiny` arrived twice with digest ");
        assert_starts(&test.hub.failure(&test.original()), &expected);
        test.assert_no_weights();
        assert!(test.incomplete().is_none());
    }
}

#[test]
fn keeps_downloaded_bytes_after_unexpected_responses() {
    let test = HubTest::new();
    let login_page = Fault::Status(200, "");
    fail_with(&test, &[Fault::Cut(600_000), login_page, Fault::WrongStart(7), DENIED]);
    assert_eq!(test.incomplete().unwrap().1.len(), 600_000);
    assert_eq!(export_with(&test, &[]), [600_000]);

    let sentence = fail_with(&HubTest::new(), &[Fault::Append(1); 5]);
    let expected = "failed 5 times in a row, last with content-length `991681`, expected `991680`: check the network, and try again";
    assert_contains(&sentence, expected);
}

#[test]
fn retries_after_silence() {
    let mut test = HubTest::new();
    test.hub.timeout = "1";
    test.hub.fail(LIST, 1, Fault::Stall(10));
    test.hub.fail("model.safetensors header", 1, Fault::Stall(50_000));
    assert_eq!(export_with(&test, &[Fault::Stall(200_000)]), [0, 200_000]);

    let mut test = HubTest::new();
    test.hub.timeout = "1";
    test.hub.fail(LIST, 9, Fault::Stall(0));
    let expected = "`HUB/api/models/owner/tiny/revision/main?blobs=true` failed 5 times in a row, last with no response in time: check the network, and try again";
    assert_eq!(test.hub.failure(&test.original()), expected);
    assert!(contents(&test.here).is_empty());
}

#[test]
fn retries_after_transient_statuses() {
    let test = HubTest::new();
    let busy = Fault::Status(500, "x-error-message: busy");
    test.hub.fail(LIST, 2, Fault::Status(429, "retry-after: 1"));
    test.hub.fail("original/config.json", 1, busy);
    test.hub.fail("model.safetensors header", 1, Fault::Status(503, "retry-after: 0"));
    let started = Instant::now();
    assert_eq!(export_with(&test, &[]), [0]);
    assert!(started.elapsed() >= Duration::from_secs(2), "the hub asked for two pauses of 1 s");
    let test = HubTest::new();
    test.hub.fail("original/config.json", 9, busy);
    let sentence = test.hub.failure(&test.original());
    assert_contains(
        &sentence,
        "failed 5 times in a row, last with status 500: check the network, and try again",
    );
}

#[cfg(unix)]
#[test]
fn keeps_received_bytes_when_interrupted() {
    for (fault, received) in
        [(Fault::Stall(300_000), 300_000..=300_000), (Fault::Slow, 10_000..=SIZE / 2)]
    {
        let test = HubTest::new();
        test.hub.fail(WEIGHTS, 1, fault);
        let line = format!(
            "HF_ENDPOINT={} HF_HOME={} HF_HUB_DOWNLOAD_TIMEOUT=15 NO_PROXY='*' \"$0\" --checkpoint owner/tiny/original --output model.onnx & \
             until find owner--tiny/.cache -size +{}k 2>/dev/null | grep -q incomplete; do sleep 0.01; done; \
             kill -INT $!; wait $!; echo $?",
            test.hub.url,
            text(&test.hub.home),
            received.start() / 1024
        );
        let started = Instant::now();
        let (_, output, error) = shell(&line, &test.here);
        assert!(started.elapsed() < Duration::from_secs(8), "{fault:?}");
        assert_eq!(output, "1\n");
        assert_starts(&error, "error: interrupted; downloaded parts are kept");
        test.assert_no_weights();
        let length = test.incomplete().unwrap().1.len() as u64;
        assert!(received.contains(&length), "{fault:?}: {length}");
        assert_eq!(export_with(&test, &[]), [length]);
    }
}
