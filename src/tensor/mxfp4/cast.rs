//! MXFP4 to BF16, F16 and F32, by tables of what pairs of codes become.

use std::array;
use std::sync::LazyLock;

use super::block::{Blocks, E2M1, dequantize, e8m0, sum_of_squares};
use crate::{BLOCK, BLOCK_LENGTH, DType, Rounding};

/// Does the same as [`crate::encode`] of the dequantized values. Panics for other dtypes.
pub fn encode(dtype: DType, blocks: Blocks, bytes: &mut [u8]) -> Rounding {
    static BF16: LazyLock<Tables<2>> = LazyLock::new(|| Tables::new(DType::BF16));
    static F16: LazyLock<Tables<2>> = LazyLock::new(|| Tables::new(DType::F16));
    static F32: LazyLock<Tables<4>> = LazyLock::new(|| Tables::new(DType::F32));
    match dtype {
        DType::BF16 => BF16.encode(blocks, bytes),
        DType::F16 => F16.encode(blocks, bytes),
        DType::F32 => F32.encode(blocks, bytes),
        _ => panic!("values cannot be encoded as {dtype}"),
    }
}

/// What pairs of codes become in a dtype of `N` bytes.
struct Tables<const N: usize> {
    dtype: DType,
    /// For each scale under which the dtype holds every value. The tables of a model,
    /// which has some ten scales, stay in the processor's cache.
    by_scale: Vec<Option<[[[u8; N]; 2]; 256]>>,
}

impl<const N: usize> Tables<N> {
    fn new(dtype: DType) -> Self {
        let table = |scale| {
            let mut encoded = [[0; N]; BLOCK_LENGTH];
            let values = array::from_fn(|at| E2M1[at % 16] * e8m0(scale));
            let rounding = crate::encode(dtype, &[values], encoded.as_flattened_mut());
            let pair = |codes: usize| [encoded[codes & 15], encoded[codes >> 4]];
            rounding.is_lossless().then(|| array::from_fn(pair))
        };
        Self { dtype, by_scale: (0..=u8::MAX).map(table).collect() }
    }

    fn encode(&self, blocks: Blocks, bytes: &mut [u8]) -> Rounding {
        let mut rounding = Rounding::default();
        let pairs = bytes.as_chunks_mut::<N>().0.as_chunks_mut::<2>().0;
        let encoded = pairs.as_chunks_mut::<{ BLOCK_LENGTH / 2 }>().0;
        assert_eq!(encoded.len(), blocks.scales.len(), "as many bytes as values");
        for (block, encoded) in blocks.iter().zip(encoded) {
            if let Some(table) = &self.by_scale[usize::from(block.scale)] {
                *encoded = block.codes.map(|codes| table[usize::from(codes)]);
                rounding.values += BLOCK;
                rounding.squares += sum_of_squares(&block);
            } else {
                let bytes = encoded.as_flattened_mut().as_flattened_mut();
                rounding += crate::encode(self.dtype, &[dequantize(&block)], bytes);
            }
        }
        rounding
    }
}
