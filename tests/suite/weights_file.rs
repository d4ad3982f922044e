//! Weights of every recipe: read in any range, written, and compared.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use gpt_oss_export::error::Kind;
use gpt_oss_export::files::FileRange;
use gpt_oss_export::progress::Silent;
use gpt_oss_export::tensor::DType;
use gpt_oss_export::weights::{
    ElementKind, FileCache, Fingerprint, FormatSet, MatrixFormat, PerRole, Present, Provenance,
    Recipe, Weight, WeightsFile, read_range,
};
use proptest::prelude::*;
use serde_json::json;

use crate::interrupted::cancelled_at_once;
use crate::support::Home;

fn weight(recipe: Recipe, bytes: u64) -> Weight {
    let (name, kind) = ("w".to_owned(), ElementKind::IntCodes);
    Weight { name, dtype: DType::U8, shape: vec![bytes], kind, recipe }
}

/// A weights file with this weight alone.
fn plan(weight: &Weight) -> WeightsFile<'_> {
    let experts = Provenance::unchanged(FormatSet::from_iter([MatrixFormat::Float(DType::F32)]));
    let provenances = PerRole { dense: experts.clone(), experts };
    let (fingerprint, adapters) = (Fingerprint::of("", []).unwrap(), [] as [(); 0]);
    WeightsFile::plan([weight], &fingerprint, &adapters, json!({}), &provenances)
}

fn create(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

/// Checks that a recipe makes these bytes, of which a range of some place and length is read.
fn check(recipe: Recipe, expected: &[u8], [place, length]: [usize; 2]) {
    let weight = weight(recipe, expected.len() as u64);
    let start = place % expected.len();
    let end = start + length % (expected.len() - start + 1);
    let found = read_range(&weight, &mut FileCache::default(), start as u64..end as u64).unwrap();
    assert!(found == expected[start..end]);

    let (home, file) = (Home::new(), plan(&weight));
    let path = home.join("written");
    file.write(&create(&path), &path, &Silent).unwrap();
    assert!(fs::read(&path).unwrap().ends_with(expected));
    assert!(matches!(
        file.check_existing(&path, |_| BTreeSet::new(), &Silent).unwrap(),
        Present::Same(_)
    ));
}

/// Matrices one after the other, and pairs of them whose rows alternate.
fn check_recipes(experts: usize, rows: usize, row: usize, seed: u8, range: [usize; 2]) {
    let home = Home::new();
    let file = home.join("stored");
    let all = (0..2 * experts * row * rows).map(|at| (at * 7 + at / 256) as u8 ^ seed);
    let all: Vec<u8> = all.collect();
    fs::write(&file, &all).unwrap();
    let parts: Vec<&[u8]> = all.chunks(row * rows).collect();
    let source = |at: usize| {
        let range = (at * row * rows) as u64..((at + 1) * row * rows) as u64;
        FileRange { file: file.clone().into(), range }
    };
    check(Recipe::Concat((0..parts.len()).map(source).collect()), &all, range);

    let pairs = (0..experts).map(|expert| [source(2 * expert), source(2 * expert + 1)]);
    let alternating = parts.chunks(2).flat_map(|pair| {
        pair[0].chunks(row).zip(pair[1].chunks(row)).flat_map(|(even, odd)| [even, odd])
    });
    let expected = alternating.collect::<Vec<_>>().concat();
    check(Recipe::InterleaveRows { pairs: pairs.collect(), row: row as u64 }, &expected, range);
}

proptest! {
    #[test]
    fn reads_and_writes_every_recipe(
        (experts, rows, row) in (1..4usize, 1..7usize, 1..9usize), seed: u8, range: [usize; 2],
    ) {
        check_recipes(experts, rows, row, seed, range);
    }
}

/// In several chunks, which end within rows.
#[test]
fn reads_and_writes_large_weights() {
    check_recipes(2, 777, 1001, 5, [1_000_000, 2_000_000]);
}

/// A tensor of so many bytes is copied in two steps.
#[test]
fn half_a_copied_tensor_is_an_interruption() {
    const BYTES: u64 = (64 << 20) + 1;
    let home = Home::new();
    let [from, to] = ["from", "to"].map(|name| home.join(name));
    File::create(&from).unwrap().set_len(BYTES).unwrap();
    let data = FileRange { file: from.into(), range: 0..BYTES };
    let weight = weight(Recipe::Slice(data), BYTES);
    let error = plan(&weight).write(&create(&to), &to, &cancelled_at_once()).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}
