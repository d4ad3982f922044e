//! Terms of low rank as the factors of a slot: those of one term after those of the other along
//! the rank, with scales in B.

use super::reader::{FileCache, read_values};
use super::recipe::{Factor, FactorAxes, LowRank, Slot};
use crate::error::{Result, ensure};

/// The sum of the ranks of terms.
pub fn total_rank(terms: &[&LowRank]) -> u64 {
    terms.iter().map(|term| term.a.sides()[0]).sum()
}

/// The factors of the sum of some terms of a slot's matrix: A `[r, in]` and B `[out, r]`, with experts
/// as the first axis. Scaling B rounds to f32.
pub fn stack(terms: &[&LowRank], slot: &Slot) -> Result<[Vec<f32>; 2]> {
    let sizes = [slot.experts.unwrap_or(1), total_rank(terms), slot.out, slot.inn];
    let [experts, rank, out, inn] = sizes.map(|size| size as usize);
    let zeros = |width: usize| vec![0f32; experts * rank * width];
    let (mut a, mut b, mut first) = (zeros(inn), zeros(out), 0);
    let files = &mut FileCache::default();
    for LowRank { rows, scale, a: of_a, b: of_b, .. } in terms {
        let [ranks, height] = of_b.sides().map(|size| size as usize);
        let [of_a, of_b] = [FactorValues::read(of_a, files)?, FactorValues::read(of_b, files)?];
        for (expert, at) in (0..experts).flat_map(|it| (0..ranks).map(move |at| (it, at))) {
            for column in 0..inn {
                a[(expert * rank + first + at) * inn + column] =
                    of_a.get(expert, at, column) as f32;
            }
            for row in 0..height {
                let scaled = (of_b.get(expert, at, row) * scale) as f32;
                let row = rows.place(row as u64) as usize;
                b[(expert * out + row) * rank + first + at] = scaled;
            }
        }
        first += ranks;
    }
    let is_finite = a.iter().chain(&b).all(|value| value.is_finite());
    ensure!(
        is_finite,
        "the factors of `{}` have values that are infinite, NaN, or beyond float32 once they are scaled: use another copy of the adapter, or a smaller weight",
        slot.matrix
    );
    Ok([a, b])
}

/// The values of a factor, whatever the order of its axes.
pub struct FactorValues {
    values: Vec<f32>,
    /// From an expert, a rank and a place along its width to the next.
    steps: [usize; 3],
}

impl FactorValues {
    pub fn read(Factor { weight, axes }: &Factor, files: &mut FileCache) -> Result<Self> {
        let shape: Vec<usize> = weight.shape.iter().map(|size| *size as usize).collect();
        let [.., rows, columns] = shape[..] else { unreachable!("a factor has two axes") };
        // All experts share a factor without an axis for them.
        let expert = if shape.len() == 3 { rows * columns } else { 0 };
        let steps = match axes {
            FactorAxes::RankWidth => [expert, columns, 1],
            FactorAxes::WidthRank => [expert, 1, columns],
            FactorAxes::WidthRankExperts => [1, columns, rows * columns],
        };
        Ok(Self { values: read_values(weight, files)?, steps })
    }

    pub fn get(&self, expert: usize, rank: usize, at: usize) -> f64 {
        let [experts, ranks, width] = self.steps;
        self.values[expert * experts + rank * ranks + at * width].into()
    }
}
