//! Reads all values of tensors, in search of damaged ones and of zeros.

use serde::Serialize;

use super::tensors::ListedTensor;
use crate::container::StoredTensor;
use crate::error::Result;
use crate::progress::{Progress, Unit, phase};
use crate::weights::{ElementKind, FileCache, Weight, examine};

/// More zero bytes in a row than trained values have: those of several rows.
const HOLE: u64 = 64 << 10;

/// Infinite and NaN values in tensors, and zeros that should not be.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Scan {
    pub bytes: u64,
    pub damaged: Vec<DamagedTensor>,
    /// Tensors of zeros, or with a hole, as in an unfinished download.
    pub zero: Vec<ZeroTensor>,
}

/// The names of a tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorName {
    /// Canonical name.
    pub tensor: String,
    /// Names in files, if they differ.
    pub stored_as: Vec<String>,
}

/// A tensor with zeros that should not be.
#[derive(Clone, Debug, Serialize)]
pub struct ZeroTensor {
    /// Its names.
    #[serde(flatten)]
    pub name: TensorName,
    /// Size in bytes.
    pub bytes: u64,
    /// Zero bytes in a row.
    pub zero_bytes: u64,
}

/// A tensor with infinite or NaN values, or invalid MXFP4 scales.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedTensor {
    /// Its names.
    #[serde(flatten)]
    pub name: TensorName,
    /// Number of values; scales and blocks of MXFP4 are separate tensors.
    pub numbers: u64,
    /// How many are infinite or NaN.
    pub not_finite: u64,
}

/// Reads weights, which are listed in the same order.
pub fn scan<'w>(
    weights: impl Iterator<Item = &'w Weight> + Clone,
    listed: &[ListedTensor],
    progress: &dyn Progress,
) -> Result<Scan> {
    let bytes = weights.clone().map(Weight::bytes).sum();
    let _phase = phase(progress, "reading weights", Unit::Bytes, bytes);
    let mut files = FileCache::default();
    let mut scan = Scan { bytes, damaged: Vec::new(), zero: Vec::new() };
    for (weight, ListedTensor { name, stored_as, .. }) in weights.zip(listed) {
        let found = examine(weight, &mut files, progress)?;
        let name = TensorName { tensor: name.clone(), stored_as: stored_as.clone() };
        if found.non_finite > 0 {
            let (numbers, not_finite) = (weight.shape.iter().product(), found.non_finite);
            scan.damaged.push(DamagedTensor { name, numbers, not_finite });
        } else if found.zero_run >= weight.bytes().min(HOLE) && !weight.may_be_zero() {
            let (bytes, zero_bytes) = (weight.bytes(), found.zero_run);
            scan.zero.push(ZeroTensor { name, bytes, zero_bytes });
        }
    }
    Ok(scan)
}

/// Reads the tensors of a SafeTensors file that are floats, which are listed in the same order.
pub fn scan_stored(
    tensors: &[StoredTensor],
    listed: &[ListedTensor],
    progress: &dyn Progress,
) -> Result<Scan> {
    let kind = ElementKind::Float;
    let floats = tensors.iter().zip(listed).filter(|(tensor, _)| kind.accepts(tensor.dtype));
    let floats = floats.map(|(tensor, listed)| (tensor.clone().into(), listed.clone()));
    let (weights, listed): (Vec<Weight>, Vec<ListedTensor>) = floats.unzip();
    scan(weights.iter(), &listed, progress)
}
