//! A browser, and reports in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::text;

const CHROMIUM: &str = "chromium";

/// Whether a browser is there. Without one pages are looked at in continuous integration alone.
pub fn has_browser() -> bool {
    let is_there = Command::new(CHROMIUM).arg("--version").output().is_ok();
    assert!(is_there || std::env::var_os("CI").is_none(), "`{CHROMIUM}` is not installed");
    is_there
}

/// Asserts that a report with so many models shows a table and its plots on small and large
/// screens, within their width, and that nothing goes wrong.
pub fn assert_readable(report: &Path, models: usize) {
    if !has_browser() {
        return;
    }
    for width in [400, 1400] {
        let frame = report.with_file_name(format!("{width}.html"));
        let measure = "d = frames[0].document; out.textContent = JSON.stringify({\
             width: d.documentElement.scrollWidth, rows: d.querySelectorAll('tbody tr').length,\
             plots: [...d.querySelectorAll('svg')].map(it => Math.round(it.getBoundingClientRect().width)),\
             drawn: [...d.querySelectorAll('svg')].every(it => it.querySelector('polyline,circle,rect'))})";
        let page = format!(
            "<body style='margin:0'><iframe src='{}' style='border:0;width:{width}px;height:900px'></iframe>\
             <pre id='out'></pre><script>onload = () => {{ {measure} }}</script>",
            report.file_name().unwrap().display()
        );
        fs::write(&frame, page).unwrap();
        let home = tempfile::tempdir().unwrap();
        let output = Command::new(CHROMIUM)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
            .args(["--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", text(home.path())))
            .arg(format!("--window-size=1500,{}", 1000))
            .arg(format!("file://{}", text(&frame)))
            .output()
            .unwrap();
        let (dom, log) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!log.contains("CONSOLE"), "{log}");
        let found = dom.split("<pre id=\"out\">").nth(1).and_then(|it| it.split("</pre>").next());
        let found: Value = serde_json::from_str(found.unwrap_or_default())
            .unwrap_or_else(|_| panic!("{dom} {log}"));
        assert_eq!((&found["rows"], &found["drawn"]), (&json!(models), &json!(true)), "{found}");
        assert!(found["width"].as_u64().unwrap() <= width, "{found}");
        let plots: Vec<u64> = serde_json::from_value(found["plots"].clone()).unwrap();
        let least = if width == 400 { 300 } else { 380 };
        assert!(plots.len() == 4 && plots.iter().all(|it| *it >= least), "{found}");
    }
}
