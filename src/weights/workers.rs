//! Experts converted side by side, as many at once as memory allows.

use std::thread::available_parallelism;

use rayon::prelude::*;

use super::pieces::{Files, Piece};
use super::store::Visit;
use super::{Conversion, Error, Result, Weight};
use crate::progress::Progress;
use crate::tensor::Rounding;

/// Bytes that what is made of experts under way may take. What is read for it is
/// about a megabyte for each of them.
const MEMORY: u64 = 96 << 20;

/// Why the work ends before all is done: both stop the others.
enum End {
    /// The answer was no.
    Enough,
    Failed(Error),
}

/// Converts all experts, with a place in the file for each product's first one,
/// until the answer is no; nothing then.
pub fn convert(
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Option<Rounding>> {
    let each: u64 = conversion.expert_bytes().iter().sum();
    let most = (MEMORY / each.max(1)).max(1) as usize;
    let threads = available_parallelism().map_or(1, usize::from).min(most);
    convert_on(threads, conversion, products, progress, visit)
}

/// The same on so many threads.
fn convert_on(
    threads: usize,
    conversion: &Conversion,
    products: &[(&Weight, u64)],
    progress: &dyn Progress,
    visit: &Visit,
) -> Result<Option<Rounding>> {
    let lengths = conversion.expert_bytes();
    let one = |expert: u64| {
        if progress.is_cancelled() {
            return Err(End::Failed(Error::Interrupted));
        }
        let made = conversion.expert(expert, &mut Files::default());
        let (made, rounding) = made.map_err(End::Failed)?;
        for (((weight, start), bytes), length) in products.iter().zip(&made).zip(&lengths) {
            let go_on = visit(weight, start + expert * length, Piece::Made(bytes));
            if !go_on.map_err(End::Failed)? {
                return Err(End::Enough);
            }
        }
        Ok(rounding)
    };
    let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let workers = workers.map_err(|error| Error::Threads(error.to_string()))?;
    // In the order of experts, so that sums are the same on any number of threads.
    let experts = (0..conversion.experts()).into_par_iter();
    let all: Vec<Rounding> = match workers.install(|| experts.map(one).collect()) {
        Ok(all) => all,
        Err(End::Enough) => return Ok(None),
        Err(End::Failed(error)) => return Err(error),
    };
    let mut sum = Rounding::default();
    all.into_iter().for_each(|rounding| sum += rounding);
    conversion.check(&sum)?;
    Ok(Some(sum))
}
