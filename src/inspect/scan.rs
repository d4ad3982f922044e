//! All bytes of all weights, in search of numbers that are none.

use std::path::Path;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, Leniency};
use crate::error::Error;
use crate::progress::{Progress, Unit, phase};
use crate::weights::{FileCache, Weight, count_non_finite};

/// What reading every weight has found.
#[derive(Clone, Debug, Serialize)]
pub struct Scan {
    /// How much was read.
    pub bytes: u64,
    /// Weights that hold infinity or NaN, or scales that are none.
    pub damaged: Vec<Damaged>,
}

/// A weight that no program should use.
#[derive(Clone, Debug, Serialize)]
pub struct Damaged {
    /// Its canonical name.
    pub tensor: String,
    /// How many numbers it has; of MXFP4 scales and blocks are counted apart.
    pub numbers: u64,
    /// How many of them are infinity or NaN.
    pub not_finite: u64,
}

/// Those of a checkpoint's folder.
pub fn checkpoint(
    path: &Path,
    leniency: &Leniency,
    progress: &dyn Progress,
) -> Result<Scan, Error> {
    scan(&Checkpoint::open(path, leniency)?, progress)
}

/// Those of a staged file.
pub fn staged(path: &Path, progress: &dyn Progress) -> Result<Scan, Error> {
    scan(&Checkpoint::open_staged(path)?.0, progress)
}

fn scan(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Scan, Error> {
    let bytes = checkpoint.weights.iter().map(Weight::bytes).sum();
    let _phase = phase(progress, "reading weights", Unit::Bytes, bytes);
    let mut files = FileCache::default();
    let look = |weight: &Weight| {
        let not_finite = count_non_finite(weight, &mut files, progress)?;
        let (tensor, numbers) = (weight.name.clone(), weight.shape.iter().product());
        Ok((not_finite > 0).then_some(Damaged { tensor, numbers, not_finite }))
    };
    let found: Result<Vec<_>, Error> = checkpoint.weights.iter().map(look).collect();
    Ok(Scan { bytes, damaged: found?.into_iter().flatten().collect() })
}
