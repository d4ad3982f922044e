//! Terms of low rank as the factors of a slot: those of one term after those of the other along
//! the rank, with scales in B.

use super::reader::{FileCache, read_range};
use super::recipe::{Factor, FactorAxes, LowRank, Slot};
use crate::error::{Result, ensure};
use crate::tensor::decode;

/// The sum of the ranks of terms.
pub fn total_rank(terms: &[&LowRank]) -> u64 {
    terms.iter().map(|term| term.a.sides()[0]).sum()
}

/// The factors of the sum of some terms of a slot's matrix: A `[r, in]` and B `[out, r]`, with experts
/// as the first axis. Scaling B rounds to f32.
pub fn stack(terms: &[&LowRank], slot: &Slot) -> Result<[Vec<f32>; 2]> {
    let Slot { experts, out, inn, .. } = *slot;
    let (experts, rank, mut first) = (experts.unwrap_or(1), total_rank(terms), 0);
    let zeros = |width: u64| vec![0f32; (experts * rank * width) as usize];
    let (mut a, mut b) = (zeros(inn), zeros(out));
    for term in terms {
        for_each(&term.a, experts, |[expert, at, column], value| {
            a[((expert * rank + first + at) * inn + column) as usize] = value;
        })?;
        for_each(&term.b, experts, |[expert, at, row], value| {
            let row = term.rows.place(row);
            let scaled = (f64::from(value) * term.scale) as f32;
            b[((expert * out + row) * rank + first + at) as usize] = scaled;
        })?;
        first += term.a.sides()[0];
    }
    let is_finite = a.iter().chain(&b).all(|value| value.is_finite());
    ensure!(
        is_finite,
        "the factors of `{}` have values that are infinite, NaN, or beyond float32 once they are scaled: use another copy of the adapter, or a smaller weight",
        slot.matrix
    );
    Ok([a, b])
}

/// Visits the values of a factor, for each expert, by expert, rank and width.
fn for_each(factor: &Factor, experts: u64, mut visit: impl FnMut([u64; 3], f32)) -> Result<()> {
    let Factor { weight, axes } = factor;
    let bytes = read_range(weight, &mut FileCache::default(), 0..weight.bytes())?;
    let (values, [ranks, widths]) = (decode(weight.dtype, &bytes), factor.sides());
    // All experts share values that have no axis more.
    let is_shared = weight.shape.len() == 2;
    for expert in 0..experts {
        let of_expert = if is_shared { 0 } else { expert };
        for rank in 0..ranks {
            for width in 0..widths {
                let at = match axes {
                    FactorAxes::RankWidth => (of_expert * ranks + rank) * widths + width,
                    FactorAxes::WidthRank => (of_expert * widths + width) * ranks + rank,
                    FactorAxes::WidthRankExperts => (width * ranks + rank) * experts + of_expert,
                };
                visit([expert, rank, width], values[at as usize]);
            }
        }
    }
    Ok(())
}
