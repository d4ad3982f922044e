//! An adapter as a file that ONNX Runtime loads beside a swappable model.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::adapter::{self, Adapter};
use crate::error::{Result, ensure, err};
use crate::files::positional::write_all_at;
use crate::onnx::{self, Parameter};
use crate::progress::Progress;
use crate::publish::{Existing, Transaction, cannot_write, check_disk_space};
use crate::tensor::DType;
use crate::weights::{self, LowRank, Slot};

/// An adapter that will be a file.
pub struct PlannedAdapter {
    path: PathBuf,
    adapter: Adapter,
    /// Those that it changes.
    slots: Vec<Slot>,
    /// The beginning of the file.
    head: Vec<u8>,
    /// Where the bytes of A and B of each slot go.
    ranges: Vec<Range<u64>>,
}

impl PlannedAdapter {
    /// An adapter, as much as its weight says, for a model with these slots.
    pub fn new(path: PathBuf, mut adapter: Adapter, weight: f64, slots: &[Slot]) -> Result<Self> {
        for term in &mut adapter.terms {
            *term = adapter::weighted(term, weight, &adapter.file)?;
        }
        let has_terms = |slot: &&Slot| !terms(&adapter, slot).is_empty();
        let slots: Vec<Slot> = slots.iter().filter(has_terms).cloned().collect();
        let file = adapter.file.display();
        ensure!(!slots.is_empty(), "`{file}` changes nothing in the model: leave it out");
        let parameters: Vec<Parameter> =
            slots.iter().flat_map(|slot| parameters(slot, &terms(&adapter, slot))).collect();
        let (head, ranges) = onnx::adapter_head(&parameters)
            .map_err(|error| err!("cannot write `{}`", path.display()).with_source(error))?;
        Ok(Self { path, adapter, slots, head, ranges })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file, one matrix at a time.
    pub fn write(&self, transaction: &mut Transaction, progress: &dyn Progress) -> Result<()> {
        let Self { path, adapter, slots, head, ranges } = self;
        transaction.claim(path)?;
        let end = ranges.last().map_or(0, |range| range.end);
        check_disk_space([(&**path, end)])?;
        transaction.create(path, Existing::Replace, |file| {
            let put = |bytes: &[u8], at| write_all_at(file, bytes, at).map_err(cannot_write(path));
            put(head, 0)?;
            for (slot, ranges) in slots.iter().zip(ranges.chunks(2)) {
                progress.check_cancelled()?;
                let factors = weights::stack(&terms(adapter, slot), slot).map_err(|error| {
                    let kind = error.kind();
                    let error_of_file = err!("cannot convert `{}`", adapter.file.display());
                    error_of_file.with_kind(kind).with_source(error)
                })?;
                for (values, range) in factors.iter().zip(ranges) {
                    let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
                    put(&(bytes.len() as u32).to_le_bytes(), range.start - 4)?;
                    put(&bytes, range.start)?;
                }
            }
            Ok(())
        })
    }
}

/// The terms of a slot's matrix.
fn terms<'a>(adapter: &'a Adapter, slot: &Slot) -> Vec<&'a LowRank> {
    adapter.terms.iter().filter(|term| term.matrix == slot.matrix).collect()
}

/// A and B of a slot.
fn parameters(slot: &Slot, terms: &[&LowRank]) -> [Parameter; 2] {
    let Slot { experts, out, inn, .. } = *slot;
    let (rank, [a, b]) = (weights::total_rank(terms), slot.names());
    [(a, [rank, inn]), (b, [out, rank])].map(|(name, sides)| Parameter {
        name,
        dtype: Some(DType::F32),
        shape: experts.into_iter().chain(sides).collect(),
    })
}
