//! An adapter as a file that ONNX Runtime loads beside a swappable model.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::adapter::RuntimeAdapter;
use crate::error::{Result, err};
use crate::files::positional::write_all_at;
use crate::onnx::{self, Parameter};
use crate::progress::Progress;
use crate::publish::{Existing, Transaction, cannot_write};
use crate::tensor::DType;

/// An adapter that will be a file.
pub struct PlannedAdapter {
    path: PathBuf,
    adapter: RuntimeAdapter,
    /// The beginning of the file.
    head: Vec<u8>,
    /// Where the bytes of A and B of each slot go.
    ranges: Vec<Range<u64>>,
}

impl PlannedAdapter {
    /// Plans the file; an adapter that is larger than the format holds is refused.
    pub fn new(path: PathBuf, adapter: RuntimeAdapter) -> Result<Self> {
        let inputs = adapter.slots.iter().flat_map(|slot| adapter.inputs(slot));
        let parameters =
            inputs.map(|(name, shape)| Parameter { name, dtype: Some(DType::F32), shape });
        let (head, ranges) = onnx::adapter_head(&parameters.collect::<Vec<_>>())
            .map_err(|error| err!("cannot write `{}`", path.display()).with_source(error))?;
        Ok(Self { path, adapter, head, ranges })
    }

    /// The file, and its size in bytes.
    pub fn file(&self) -> (&Path, u64) {
        (&self.path, self.ranges.last().map_or(0, |range| range.end))
    }

    /// Writes the claimed file, one matrix at a time.
    pub fn write(&self, transaction: &mut Transaction, progress: &dyn Progress) -> Result<()> {
        let Self { path, adapter, head, ranges } = self;
        transaction.create(path, Existing::Replace, |file| {
            let put = |bytes: &[u8], at| write_all_at(file, bytes, at).map_err(cannot_write(path));
            put(head, 0)?;
            for (slot, ranges) in adapter.slots.iter().zip(ranges.chunks(2)) {
                progress.check_cancelled()?;
                for (values, range) in adapter.factors(slot)?.iter().zip(ranges) {
                    let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
                    put(&(bytes.len() as u32).to_le_bytes(), range.start - 4)?;
                    put(&bytes, range.start)?;
                }
            }
            Ok(())
        })
    }
}
