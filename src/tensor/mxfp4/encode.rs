//! MXFP4 to BF16, F16 and F32, by tables: a byte of codes is one of 256 pairs.

use std::sync::LazyLock;

use super::{BLOCK, Blocks, E2M1, dequantise, e8m0, sum_of_squares};
use crate::tensor::{self, DType, Rounding};

/// Writes the numbers of blocks in BF16, F16 or F32, as [`tensor::encode`] does with
/// what they stand for. Panics where the dtype is another one.
pub fn encode(dtype: DType, blocks: Blocks, bytes: &mut [u8]) -> Rounding {
    static BF16: LazyLock<Pairs<2>> = LazyLock::new(|| Pairs::new(DType::BF16));
    static F16: LazyLock<Pairs<2>> = LazyLock::new(|| Pairs::new(DType::F16));
    static F32: LazyLock<Pairs<4>> = LazyLock::new(|| Pairs::new(DType::F32));
    match dtype {
        DType::BF16 => BF16.encode(blocks, bytes),
        DType::F16 => F16.encode(blocks, bytes),
        DType::F32 => F32.encode(blocks, bytes),
        _ => panic!("{dtype} is no format to write numbers in"),
    }
}

/// What bytes of codes become, in a dtype of `N` bytes.
struct Pairs<const N: usize> {
    dtype: DType,
    /// For each scale, where every number has one in the dtype bit for bit. A model
    /// has some ten scales: their tables stay in the processor's cache.
    under: Vec<Option<[[[u8; N]; 2]; 256]>>,
}

impl<const N: usize> Pairs<N> {
    fn new(dtype: DType) -> Self {
        let pairs = |scale| {
            let mut numbers = [[0; N]; 16];
            let scaled = E2M1.map(|number| number * e8m0(scale));
            let rounding = tensor::encode(dtype, &scaled, numbers.as_flattened_mut());
            let pair = |byte: usize| [numbers[byte & 15], numbers[byte >> 4]];
            rounding.is_lossless().then(|| std::array::from_fn(pair))
        };
        Self { dtype, under: (0..=u8::MAX).map(pairs).collect() }
    }

    fn encode(&self, blocks: Blocks, bytes: &mut [u8]) -> Rounding {
        let mut rounding = Rounding::default();
        let numbers = bytes.as_chunks_mut::<N>().0;
        let pairs = numbers.as_chunks_mut::<2>().0.as_chunks_mut::<{ BLOCK as usize / 2 }>().0;
        assert_eq!(pairs.len(), blocks.scales.len(), "as many bytes as numbers");
        for (block, pairs) in blocks.iter().zip(pairs) {
            if let Some(table) = &self.under[usize::from(block.scale)] {
                let looked_up = |byte: u8| table[usize::from(byte)];
                *pairs = block.codes.map(looked_up);
                rounding.numbers += BLOCK;
                rounding.squares += sum_of_squares(&block);
            } else {
                let bytes = pairs.as_flattened_mut().as_flattened_mut();
                rounding += tensor::encode(self.dtype, &dequantise(&block), bytes);
            }
        }
        rounding
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of any scales, those included that a dtype does not have every number of.
        #[test]
        fn blocks_become_what_their_numbers_become(
            blocks in prop::collection::vec((any::<u8>(), any::<[u8; 16]>()), 0..9),
            dtype in prop::sample::select(vec![DType::BF16, DType::F16, DType::F32]),
        ) {
            let (scales, codes): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
            let blocks = Blocks { scales: &scales, codes: &codes };
            let numbers: Vec<f32> = blocks.iter().flat_map(|block| dequantise(&block)).collect();
            let bytes = || vec![0; numbers.len() * dtype.size() as usize];
            let (mut expected, mut found) = (bytes(), bytes());
            let by_number = tensor::encode(dtype, &numbers, &mut expected);
            let by_table = encode(dtype, blocks, &mut found);
            prop_assert_eq!(found, expected);
            let sums = |rounding: Rounding| [rounding.squares, rounding.error];
            for (found, expected) in sums(by_table).into_iter().zip(sums(by_number)) {
                prop_assert!((found - expected).abs() <= 1e-9 * expected, "{found:e} {expected:e}");
            }
            let counts = |rounding| Rounding { squares: 0.0, error: 0.0, ..rounding };
            prop_assert_eq!(counts(by_table), counts(by_number));
        }
    }
}
