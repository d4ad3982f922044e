//! Speed of format conversions on one thread, in bytes of the f32 values that they read or
//! write, next to memcpy: `cargo bench -p kernels`.

use std::hint::black_box;

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use gpt_oss_export::tensor::ints::{self, Bits};
use gpt_oss_export::tensor::{DType, decode, encode, mxfp4};

/// As many values as stay in the processor's cache, like a chunk of a conversion.
const VALUES: usize = 1 << 16;
const FLOATS: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

/// Values of the size of weights that only F32 holds exactly.
fn inexact() -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32
    };
    (0..VALUES).map(|_| next() * 0.1).collect()
}

/// Values that every format holds exactly.
fn exact() -> Vec<f32> {
    let scale = |at: usize| 2f32.powi(-8 - (at / 32 % 4) as i32);
    (0..VALUES).map(|at| mxfp4::E2M1[at * 7 % 16] * scale(at)).collect()
}

fn kernels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels");
    group.throughput(Throughput::Bytes(4 * VALUES as u64));
    let mut bench = |name: String, run: &mut dyn FnMut(&mut Bencher)| {
        group.bench_function(name, |bencher| run(bencher));
    };
    let (exact, inexact) = (exact(), inexact());
    let mut values = vec![0f32; VALUES];
    let mut bytes = vec![0x3b; 4 * VALUES];

    bench("memcpy".into(), &mut |bencher| {
        bencher.iter(|| values.copy_from_slice(black_box(&inexact)));
    });
    for dtype in FLOATS.into_iter().chain([DType::F8E5M2]) {
        let bytes = &bytes[..VALUES * dtype.size() as usize];
        bench(format!("{dtype} to f32"), &mut |bencher| {
            bencher.iter(|| decode(dtype, black_box(bytes)));
        });
    }

    for (name, values) in [("exact", &exact), ("inexact", &inexact)] {
        let blocks: &[[f32; 32]] = values.as_chunks().0;
        for dtype in FLOATS {
            let size = dtype.size() as usize;
            bench(format!("f32 to {dtype}, {name}"), &mut |bencher| {
                bencher.iter(|| encode(dtype, black_box(blocks), &mut bytes[..VALUES * size]));
            });
        }
        for bits in Bits::ALL {
            let mut codes = vec![0; bits.block_bytes() as usize];
            bench(format!("f32 to {bits}, {name}"), &mut |bencher| {
                bencher.iter(|| {
                    black_box(blocks).iter().for_each(|block| {
                        black_box(ints::quantize(bits, block, &mut codes));
                    });
                });
            });
        }
        bench(format!("f32 to mxfp4, {name}"), &mut |bencher| {
            bencher.iter(|| {
                black_box(blocks).iter().for_each(|block| {
                    black_box(mxfp4::quantize(block));
                });
            });
        });
    }

    let blocks = inexact.as_chunks().0.iter().map(|values| mxfp4::quantize(values).0);
    let (scales, codes): (Vec<_>, Vec<_>) = blocks.map(|block| (block.scale, block.codes)).unzip();
    let blocks = mxfp4::Blocks { scales: &scales, codes: &codes };
    for dtype in FLOATS {
        let bytes = &mut bytes[..VALUES * dtype.size() as usize];
        bench(format!("mxfp4 to {dtype}"), &mut |bencher| {
            bencher.iter(|| mxfp4::encode(dtype, black_box(blocks), bytes));
        });
    }
    let mut scales = vec![0.0; scales.len()];
    for bits in Bits::ALL {
        let codes = &mut bytes[..scales.len() * bits.block_bytes() as usize];
        bench(format!("mxfp4 to {bits}"), &mut |bencher| {
            bencher.iter(|| ints::from_mxfp4(bits, black_box(blocks), codes, &mut scales));
        });
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
