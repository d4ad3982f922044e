//! Experts converted side by side, as many at once as memory allows.

use std::thread::available_parallelism;

use rayon::prelude::*;

use super::pieces::{Files, Piece};
use super::store::Visit;
use super::{Conversion, Error, Result, Weight};
use crate::progress::Progress;
use crate::tensor::Rounding;

/// Bytes that may be held for experts under way.
const MEMORY: u64 = 96 << 20;

/// Converts all experts, with a place in the file for each product's first one,
/// until the answer is no; nothing then.
pub fn convert(
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Option<Rounding>> {
    let lengths = conversion.expert_bytes();
    let one = |expert: u64| {
        if progress.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let (made, rounding) = conversion.expert(expert, &mut Files::default())?;
        for (((weight, start), bytes), length) in products.iter().zip(&made).zip(&lengths) {
            if !visit(weight, start + expert * length, Piece::Made(bytes))? {
                return Ok(None);
            }
        }
        Ok(Some(rounding))
    };
    let each: u64 = lengths.iter().sum();
    let most = (MEMORY / each.max(1)).max(1) as usize;
    let threads = available_parallelism().map_or(1, usize::from).min(most);
    let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let workers = workers.map_err(|error| Error::Threads(error.to_string()))?;
    // In the order of experts, so that sums are the same on any number of threads.
    let all: Vec<Option<Rounding>> = workers
        .install(|| (0..conversion.experts()).into_par_iter().map(one).collect::<Result<_>>())?;
    let mut sum = Rounding::default();
    for rounding in all {
        let Some(rounding) = rounding else { return Ok(None) };
        sum += rounding;
    }
    conversion.check(&sum)?;
    Ok(Some(sum))
}
