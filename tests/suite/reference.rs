//! The reference of `verify` against logits by OpenAI's own implementation.

use std::path::Path;

use gpt_oss_export::progress::Silent;
use gpt_oss_export::reference::{self, Activations, PassOptions, ReadOptions, ReferenceModel};
use ndarray::{Axis, Ix3};

use crate::layout_fixtures::{LAYOUTS, in_folder};
use crate::support::{fixture, npy};

pub fn ids(name: &str) -> Vec<Vec<u32>> {
    ids_in(&fixture("reference").join(format!("logits-{name}.ids.npy")))
}

pub fn ids_in(path: &Path) -> Vec<Vec<u32>> {
    let ids = npy(path, i64::from_le_bytes);
    ids.rows().into_iter().map(|row| row.iter().map(|id| *id as u32).collect()).collect()
}

pub fn open(source: &Path) -> ReferenceModel {
    reference::read(source, &ReadOptions::default()).unwrap()
}

pub fn run<'c>(checkpoint: &'c ReferenceModel, rows: &[Vec<u32>]) -> Activations<'c> {
    reference::run(checkpoint, rows, &PassOptions::default(), &Silent).unwrap()
}

/// The largest difference between the reference's logits and a case's, which may have the
/// last ones of a row only.
pub fn error(checkpoint: &ReferenceModel, name: &str) -> f64 {
    error_of(checkpoint, &ids(name), &fixture("reference").join(format!("logits-{name}.npy")))
}

/// The same for rows of tokens and the logits in a file.
pub fn error_of(checkpoint: &ReferenceModel, rows: &[Vec<u32>], logits: &Path) -> f64 {
    let expected = npy(logits, f32::from_le_bytes).into_dimensionality::<Ix3>().unwrap();
    let activations = run(checkpoint, rows);
    let (length, mut worst) = (rows[0].len(), 0f64);
    for (at, expected) in expected.axis_iter(Axis(0)).enumerate() {
        let end = (at + 1) * length;
        let tokens: Vec<_> = (end - expected.nrows()..end).collect();
        let found = activations.logits(&tokens).unwrap();
        let off = found.exact - expected.mapv(f64::from);
        worst = off.iter().fold(worst, |worst, off| worst.max(off.abs()));
    }
    worst
}

#[test]
fn matches_openais_implementation() {
    for (checkpoint, case, bound) in [
        ("tiny", "2x40", 1e-5),
        ("tiny", "1x300", 1e-5),
        // Where f32 angles themselves are coarser.
        ("tiny", "1x4500", 1e-4),
        ("tiny-3-heads", "tiny-3-heads", 1e-5),
        ("tiny-1-kv", "tiny-1-kv", 1e-5),
        ("tiny-hf", "2x40", 1e-5),
    ] {
        let error = error(&open(&fixture(checkpoint)), case);
        assert!(error <= bound, "{checkpoint}, {case}: {error:e}");
    }
    // The same model in every layout.
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let error = error(&open(&home.checkpoint()), "2x40");
        assert!(error <= 1e-5, "{layout}: {error:e}");
    }
}

#[test]
fn rows_are_independent() {
    let checkpoint = open(&fixture("tiny"));
    let [one, other] = &ids("2x40")[..] else { panic!("two rows") };
    let rows = [one[..5].to_vec(), other.clone(), one[..1].to_vec()];
    let tokens: Vec<_> = (0..45).collect();
    let together = run(&checkpoint, &rows).logits(&tokens[5..]).unwrap();
    let alone = run(&checkpoint, &rows[1..2]).logits(&tokens[..40]).unwrap();
    let off = together.exact - alone.exact;
    assert!(off.iter().all(|off| off.abs() <= 1e-12), "{off}");
}

/// Rows beyond the tokens that are computed together come in a later group.
#[test]
fn groups_of_rows_are_one_pass() {
    let checkpoint = open(&fixture("tiny"));
    let row = |at: u32| (0..300).map(|token| (token * 7 + at * 31) % 320).collect::<Vec<u32>>();
    let rows: Vec<Vec<u32>> = (0..8).map(row).collect();
    let options = PassOptions { traced_rows: 5, with_noise: true, ..PassOptions::default() };
    let all = reference::run(&checkpoint, &rows, &options, &Silent).unwrap();
    for (at, row) in rows.iter().enumerate() {
        let tokens: Vec<usize> = (0..300).collect();
        let alone = run(&checkpoint, std::slice::from_ref(row)).logits(&tokens).unwrap().exact;
        let here: Vec<usize> = tokens.iter().map(|token| at * 300 + token).collect();
        let off = all.logits(&here).unwrap().exact - alone;
        assert!(off.iter().all(|off| off.abs() <= 1e-12), "row {at}");
    }
    assert_eq!(all.residuals.iter().map(|it| it.exact.nrows()).collect::<Vec<_>>(), [1500; 4]);
    let choices = 2400 * checkpoint.numbers.experts_per_token;
    assert!(all.expert_use.iter().all(|layer| layer.iter().sum::<u64>() == choices));
}

#[test]
fn following_a_choice_changes_that_token_alone() {
    let first = ReadOptions { layers: Some(1), ..ReadOptions::default() };
    let checkpoint = reference::read(&fixture("tiny-3-heads"), &first).unwrap();
    let rows = ids("tiny-3-heads");
    // All are ties.
    let (with_noise, traced_rows) = (true, 2);
    let options =
        PassOptions { with_noise, traced_rows, tie_factor: 1e30, ..PassOptions::default() };
    let plain = reference::run(&checkpoint, &rows, &options, &Silent).unwrap();
    assert_eq!((plain.ties.len(), plain.residuals.len()), (100, 2));
    // Five experts, of which each token has one: at token 7 four others.
    let mut moved = 0;
    for expert in 0..5 {
        // Without experts there is no choice to follow.
        let mut choices = vec![vec![Vec::new(); 100]];
        choices[0][7] = vec![expert];
        let followed = PassOptions { follow: Some(choices), ..options.clone() };
        let other = reference::run(&checkpoint, &rows, &followed, &Silent).unwrap();
        let [one, other] = [&plain, &other].map(|found| &found.residuals[1].exact);
        for (token, (one, other)) in one.rows().into_iter().zip(other.rows()).enumerate() {
            moved += usize::from(one != other);
            assert!(one == other || token == 7, "token {token}");
        }
    }
    assert_eq!(moved, 4);
}

#[test]
fn noise_is_some_units_in_the_last_place() {
    let checkpoint = open(&fixture("tiny"));
    let options = PassOptions { with_noise: true, traced_rows: 2, ..PassOptions::default() };
    let found = reference::run(&checkpoint, &ids("2x40"), &options, &Silent).unwrap();
    let logits = found.logits(&(0..80).collect::<Vec<_>>()).unwrap();
    let largest = logits.exact.iter().fold(0f64, |most, logit| most.max(logit.abs()));
    let ulps = logits.noise / largest / f64::from(f32::EPSILON);
    assert!((0.5..50.0).contains(&ulps), "{ulps}");
    assert_eq!(found.residuals[0].noise, 0.0, "the embedding is stored");
    assert!(found.residuals[1..].iter().all(|residual| residual.noise > 1e-8));
}

#[test]
fn refuses_unknown_token() {
    let rows = [vec![1, 2], vec![3, 320]];
    let checkpoint = open(&fixture("tiny"));
    let outcome = reference::run(&checkpoint, &rows, &PassOptions::default(), &Silent);
    let sentence = outcome.err().unwrap().to_string();
    assert_eq!(sentence, "token 1 of a row is 320, and the vocabulary has 320");
}
