//! Documents and the example agree with the code.

use std::collections::BTreeMap;
use std::{env, fs};

use regex::Regex;
use serde_json::{Map, Value};

use crate::genai::with_tokenizer;
use crate::inspect::inspect;
use crate::support::{Home, assert_contains, fixture, root};

#[allow(dead_code)] // its `main`
#[path = "../../examples/export.rs"]
mod example;

/// Every document that people read, below the root, with its text.
pub fn documents() -> Vec<(String, String)> {
    let listed = fs::read_dir(root().join("docs")).unwrap();
    let names = listed.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let names = names.filter(|name| name.ends_with(".md"));
    let others = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let examples =
        ["python", "ray", "triton", "web"].map(|name| format!("examples/{name}/README.md"));
    let names = names.chain(others.map(str::to_owned)).chain(examples);
    names.map(|name| (name.clone(), document(&name))).collect()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

#[test]
fn links_between_documents_lead_to_files() {
    for (name, text) in documents() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(a, b)| (a, Some(b)));
            let path = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            assert!(path.exists(), "{name} links to {link}");
            let is_heading = |anchor| {
                fs::read_to_string(&path).unwrap().lines().any(|line| {
                    line.starts_with('#') && slug(line.trim_start_matches('#').trim()) == anchor
                })
            };
            assert!(anchor.is_none_or(is_heading), "{name} links to {link}, which is no heading");
        }
    }
}

/// The anchor of a heading.
/// Whether a document is as generated; with INSTA_UPDATE=always it is written.
#[track_caller]
pub fn assert_generated(name: &str, text: &str) {
    let path = root().join(name);
    if env::var("INSTA_UPDATE").is_ok_and(|it| it == "always") {
        fs::write(&path, text).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    let differs = known.lines().zip(text.lines()).find(|(known, new)| known != new);
    assert!(
        known == text,
        "run this test with INSTA_UPDATE=always; the first change: {differs:#?}"
    );
}

fn slug(heading: &str) -> String {
    let is_kept = |it: &char| it.is_alphanumeric() || " -_".contains(*it);
    heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-")
}

/// The site has every page, and no page leads out of it.
#[test]
fn site_has_every_page() {
    let summary = document("docs/SUMMARY.md");
    for (name, text) in documents() {
        let Some(page) = name.strip_prefix("docs/").filter(|it| *it != "SUMMARY.md") else {
            continue;
        };
        assert!(summary.contains(&format!("]({page})")), "docs/SUMMARY.md lacks {page}");
        assert!(!text.contains("](../"), "{name} links to a file that is not in the site");
    }
}

#[test]
fn interface_lists_the_metadata() {
    let home = with_tokenizer();
    let (model, _) = home.export("model", &["--for", "genai"]);
    let properties = &inspect(&model, &[])["properties"];
    let metadata = properties["gpt_oss_export"].as_str().unwrap();
    let metadata: Map<String, Value> = serde_json::from_str(metadata).unwrap();

    let document = document("docs/interface.md");
    let (_, part) = document.split_once("\n## Metadata\n").unwrap();
    let cells = part.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let keys = cells.flat_map(|cell| cell.split(',')).filter_map(|key| {
        let (name, mark) = key.trim().strip_prefix('`')?.split_once('`')?;
        Some((name.to_owned(), mark == "°"))
    });
    let keys: BTreeMap<String, bool> = keys.collect();
    let unknown: Vec<_> = metadata.keys().filter(|key| !keys.contains_key(*key)).collect();
    let is_absent =
        |(key, may_lack): &(&String, &bool)| !**may_lack && !metadata.contains_key(*key);
    let absent: Vec<_> = keys.iter().filter(is_absent).map(|(key, _)| key).collect();
    assert!(unknown.is_empty() && absent.is_empty(), "not listed {unknown:?}, absent {absent:?}");
}

/// The site begins with the README, from where its links lead.
#[test]
fn overview_is_the_readme() {
    let readme = document("README.md");
    let (text, _) = readme.split_once("\n## More\n").unwrap();
    let outside = Regex::new(r"\[([^\]]+)\]\((?:src|examples|tests|[A-Z]+)[^)]*\)").unwrap();
    let inside = text.replace("](docs/", "](");
    assert_generated("docs/overview.md", &outside.replace_all(&inside, "$1"));
}

/// `docs/cast.py` records them.
#[test]
fn picture_shows_the_commands_of_the_readme() {
    let (readme, picture) = (document("README.md"), document("docs/cast.svg"));
    let block = readme.split("```").find(|it| it.contains("generate out/model.onnx")).unwrap();
    for command in block.replace("\\\n    ", "").lines().skip(1) {
        let shown = format!(">$ {}<", command.replace('"', "&quot;"));
        assert_contains(&picture, &shown);
    }
}

#[test]
fn example_exports() {
    let home = Home::new();
    let model = home.join("model.onnx");
    let summary = example::run(fixture("tiny"), model.clone()).unwrap().to_string();
    assert!(summary.contains("model.onnx") && model.exists(), "{summary}");
}
