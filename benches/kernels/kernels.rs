//! How fast numbers change their format, in bytes of the 32-bit numbers that come or
//! go, beside how fast memory is copied.
//!
//! `cargo bench -p kernels` prints a line for each; on one thread.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gpt_oss_export::tensor::ints::{self, Bits};
use gpt_oss_export::tensor::{DType, decode, encode, mxfp4};

/// As many as stay in a processor's cache, as in a conversion.
const NUMBERS: usize = 1 << 16;

/// Numbers that no format but F32 holds, of the size of weights.
fn uneven() -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        // Numerical Recipes' generator: any will do.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32
    };
    (0..NUMBERS).map(|_| next() * 0.1).collect()
}

/// Numbers that every format holds.
fn even() -> Vec<f32> {
    let values = mxfp4::E2M1;
    (0..NUMBERS).map(|at| values[at * 7 % 16] * 2f32.powi(-8 - (at / 32 % 4) as i32)).collect()
}

fn kernels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("numbers");
    group.throughput(Throughput::Bytes(4 * NUMBERS as u64));
    let (even, uneven) = (even(), uneven());
    let mut numbers = vec![0f32; NUMBERS];
    group.bench_function("memcpy", |bench| {
        bench.iter(|| numbers.copy_from_slice(black_box(&uneven)));
    });
    for dtype in [DType::BF16, DType::F16, DType::F32, DType::F8E5M2] {
        let bytes = vec![0x3b; NUMBERS * dtype.size() as usize];
        group.bench_function(format!("decode {dtype}"), |bench| {
            bench.iter(|| decode(dtype, black_box(&bytes), &mut numbers).unwrap());
        });
    }
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let mut bytes = vec![0; NUMBERS * dtype.size() as usize];
        for (what, numbers) in [("exact", &even), ("rounded", &uneven)] {
            group.bench_function(format!("encode {dtype}, {what}"), |bench| {
                bench.iter(|| {
                    let blocks = black_box(numbers).as_chunks::<32>().0;
                    for (block, bytes) in
                        blocks.iter().zip(bytes.chunks_mut(32 * dtype.size() as usize))
                    {
                        black_box(encode(dtype, block, bytes));
                    }
                });
            });
        }
    }
    for (what, numbers) in [("exact", &even), ("rounded", &uneven)] {
        group.bench_function(format!("encode mxfp4, {what}"), |bench| {
            bench.iter(|| {
                for block in black_box(numbers).as_chunks().0 {
                    black_box(mxfp4::quantise(block));
                }
            });
        });
    }
    group.finish();
}

fn from_mxfp4(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mxfp4");
    group.throughput(Throughput::Bytes(4 * NUMBERS as u64));
    let uneven = uneven();
    let quantised = uneven.as_chunks().0.iter().map(|numbers| mxfp4::quantise(numbers).0);
    let (scales, codes): (Vec<_>, Vec<_>) =
        quantised.map(|block| (block.scale, block.codes)).unzip();
    let blocks = mxfp4::Blocks { scales: &scales, codes: &codes };
    let mut numbers = vec![0f32; NUMBERS];
    group.bench_function("decode", |bench| {
        bench.iter(|| {
            for (block, numbers) in black_box(blocks).iter().zip(numbers.as_chunks_mut().0) {
                *numbers = mxfp4::dequantise(&block);
            }
        });
    });
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let mut bytes = vec![0; NUMBERS * dtype.size() as usize];
        group.bench_function(format!("to {dtype}"), |bench| {
            bench.iter(|| mxfp4::encode(dtype, black_box(blocks), &mut bytes));
        });
    }
    for bits in Bits::ALL {
        let mut made = vec![0; scales.len() * bits.block_bytes() as usize];
        let mut under = vec![0.0; scales.len()];
        group.bench_function(format!("to {bits}"), |bench| {
            bench.iter(|| ints::from_mxfp4(bits, black_box(blocks), &mut made, &mut under));
        });
    }
    group.finish();
}

fn to_integers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("integers");
    group.throughput(Throughput::Bytes(4 * NUMBERS as u64));
    for (what, numbers) in [("of MXFP4's numbers", even()), ("of others", uneven())] {
        for bits in Bits::ALL {
            let mut made = vec![0; NUMBERS];
            group.bench_function(format!("{bits} {what}"), |bench| {
                bench.iter(|| {
                    let made = made.chunks_mut(bits.block_bytes() as usize);
                    for (block, made) in black_box(&numbers).as_chunks().0.iter().zip(made) {
                        black_box(ints::quantise(bits, block, made));
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, kernels, from_mxfp4, to_integers);
criterion_main!(benches);
