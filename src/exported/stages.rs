//! Which files are the stages of a model, and whether they are of one export.

use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::file::ModelFile;
use super::metadata::ModelMetadata;
use super::paths::{EXTENSION, StageName, expand, stages_of};
use crate::display::{listed, noun, several, spans};
use crate::error::{Error, Result, ensure, err};
use crate::model::{ModelPart, StageNumber};

/// More than any model has layers.
const MOST_STAGES: usize = 1024;

/// The files of a model in the order in which they run; `given` are some or all of them, or patterns.
pub fn read(given: &[PathBuf]) -> Result<Vec<ModelFile>> {
    let paths = expand(given)?;
    let read = |path: &PathBuf| ModelFile::read(path);
    let mut files = Error::collect(paths.iter().map(read))?;
    if files.len() == 1 && files[0].stage().is_none() {
        return Ok(files);
    }
    ensure!(
        !files.is_empty() && files.iter().all(|it| it.stage().is_some()),
        "{} are given, expected one model or the stages of one: verify or run one after the other",
        listed(paths.iter().map(|it| it.display()))
    );
    let name = paths.iter().find_map(|it| StageName::of(it));
    let mut others = name.map_or(Vec::new(), |it| it.beside(EXTENSION));
    others.retain(|other| !paths.iter().any(|it| it.file_name() == other.file_name()));
    files.extend(Error::collect(others.iter().map(read))?);
    files[1..].iter().try_for_each(|other| require_same_export(&files[0], other))?;
    files.sort_by_key(|it| it.stage().map(|stage| stage.layers.start));
    require_all_layers(&files)?;
    Ok(files)
}

/// Refuses a stage of another export, by what all stages of one have in common.
fn require_same_export(first: &ModelFile, other: &ModelFile) -> Result<()> {
    let [one, two] = [first, other].map(|it| it.metadata.as_ref().expect("a stage has metadata"));
    let is_known = one.fingerprint.is_some() && two.fingerprint.is_some();
    let [a, b] = [one, two].map(|it| {
        json!({
            "fingerprint": it.fingerprint.as_ref().filter(|_| is_known),
            "stages": it.part().stage.map(|it| it.of),
            "layers": it.layers,
            "options": it.options,
            "formats": it.provenances.formats(),
            "adapters": it.adapters,
            "ignored": it.ignored,
        })
    });
    let mut found = Vec::new();
    add_differences("", [&a, &b], &mut found);
    ensure!(
        found.is_empty(),
        "`{}` and `{}` are of different exports, with other {}: give the stages of one export",
        first.path.display(),
        other.path.display(),
        several(found.into_iter())
    );
    Ok(())
}

/// What differs in two values: its path, and what it is in both unless that is a list.
fn add_differences(path: &str, [a, b]: [&Value; 2], found: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let others = b.keys().filter(|name| !a.contains_key(*name));
        for name in a.keys().chain(others) {
            let both = [a, b].map(|it| it.get(name).unwrap_or(&Value::Null));
            let separator = if path.is_empty() { "" } else { "." };
            add_differences(&format!("{path}{separator}{name}"), both, found);
        }
    } else if a != b {
        let shown = |it: &Value| match it {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let is_list = a.is_array() || b.is_array();
        let both =
            if is_list { String::new() } else { format!(" ({} and {})", shown(a), shown(b)) };
        found.push(format!("`{path}`{both}"));
    }
}

/// Refuses stages, sorted by their layers, of which some have the same layers or some are missing.
fn require_all_layers(files: &[ModelFile]) -> Result<()> {
    let all = files[0].metadata.as_ref().map_or(0, |it| it.layers);
    let mut end = 0;
    for (at, file) in files.iter().enumerate() {
        let Some(ModelPart { layers, .. }) = file.stage() else { continue };
        let numbers = [at.saturating_sub(1), at].map(|at| files[at].stage()?.stage);
        ensure!(
            layers.start == end || !are_neighbors(numbers),
            "`{}` ends before layer {end}, and `{}` begins with layer {}: they are cut at different layers; export both again with the same stages",
            files[at - 1].path.display(),
            file.path.display(),
            layers.start
        );
        ensure!(
            layers.start >= end,
            "`{}` and `{}` both have layer {}: give one of them",
            files[at.saturating_sub(1)].path.display(),
            file.path.display(),
            layers.start
        );
        if layers.start > end {
            return Err(missing(files, end..layers.start, all));
        }
        end = layers.end;
    }
    if end == all { Ok(()) } else { Err(missing(files, end..all, all)) }
}

/// Whether these are two stages of a model, one after the other.
fn are_neighbors([one, two]: [Option<StageNumber>; 2]) -> bool {
    one.zip(two).is_some_and(|(one, two)| one.number + 1 == two.number && one.of == two.of)
}

/// The error of stages without some of all layers.
fn missing(files: &[ModelFile], layers: Range<usize>, all: usize) -> Error {
    let names: Vec<StageName> = files.iter().filter_map(|it| StageName::of(&it.path)).collect();
    let is_there = |number: &usize| names.iter().any(|it| it.number == *number);
    // A name may tell any number.
    let of = names.first().map_or(0, |it| it.of.min(MOST_STAGES));
    let others = (1..=of).filter(|number| !is_there(number)).map(|it| names[0].other(it));
    let others: Vec<PathBuf> = others.collect();
    if others.is_empty() {
        let given = listed(files.iter().map(|it| it.path.display()));
        let verb = if files.len() == 1 { "is a part" } else { "are parts" };
        let (nouns, layers) = (noun(layers.len(), "layer"), spans(layers));
        return err!(
            "{given} {verb} of a model of {all} layers, without {nouns} {layers}: give the files of all stages"
        );
    }
    let verb = if others.len() == 1 { "is" } else { "are" };
    err!(
        "`{}` is a stage of {}, and {} {verb} missing: put all stages into one folder, or give the files of all",
        names[0].path.display(),
        names[0].of,
        listed(others.iter().map(|it| it.display()))
    )
}

/// The metadata of the whole model.
pub fn whole(files: &[ModelFile]) -> Option<ModelMetadata> {
    let mut stages = files.iter().filter_map(|it| it.metadata.clone());
    let mut whole = ModelMetadata { stage: None, ..stages.next()? };
    for stage in stages {
        whole.residuals.extend(stage.residuals);
        whole.routers.extend(stage.routers);
        whole.limited_caches.extend(stage.limited_caches);
    }
    Some(whole)
}

/// What to call a model: its file, or the pattern of the names of its stages.
pub fn common_name(files: &[ModelFile]) -> PathBuf {
    let first = &files[0];
    let is_of = |pattern| files.iter().all(|it| stages_of(&it.path).as_ref() == Some(pattern));
    match first.stage().and_then(|_| stages_of(&first.path)) {
        Some(pattern) if is_of(&pattern) => pattern,
        _ => first.path.clone(),
    }
}
