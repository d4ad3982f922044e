//! The formats in which a model has the matrices of its checkpoint: its initializers
//! tell, by their names, dtypes and sizes.

use std::collections::HashMap;

use crate::checkpoint::Checkpoint;
use crate::onnx::{OnnxFile, StoredInitializer};
use crate::tensor::DType;
use crate::weights::{Matrix, MatrixFormat, Role, Weight};

/// How the names of the logits' matrix begin.
const LOGITS: &str = "lm_head.";

/// The checkpoint with its matrices in the formats that the model has them in; as they
/// are where none fits.
pub fn as_made(checkpoint: &Checkpoint, description: &OnnxFile) -> Checkpoint {
    let stored = Stored::new(description);
    let experts = candidates(checkpoint, |candidate, format| {
        candidate.convert(Role::Experts, format, true).is_ok()
    });
    let fits = |candidate: &Checkpoint| stored.has_all(candidate.weights.matrices(Role::Experts));
    let checkpoint = experts.into_iter().find(fits).unwrap_or_else(|| checkpoint.clone());
    let dense = candidates(&checkpoint, |candidate, format| {
        candidate.convert(Role::Dense, format, true).is_ok()
    });
    let fits = |candidate: &Checkpoint| {
        stored.has_all(candidate.weights.matrices(Role::Dense))
            && stored.has_no_other_logits(candidate)
    };
    dense.into_iter().find(fits).unwrap_or(checkpoint)
}

/// The checkpoint as it is, and in every format that it can be put into.
fn candidates(
    checkpoint: &Checkpoint,
    convert: impl Fn(&mut Checkpoint, MatrixFormat) -> bool,
) -> Vec<Checkpoint> {
    let converted = MatrixFormat::TARGETS.into_iter().filter_map(|format| {
        let mut candidate = checkpoint.clone();
        convert(&mut candidate, format).then_some(candidate)
    });
    [checkpoint.clone()].into_iter().chain(converted).collect()
}

/// A model's initializers by their names.
struct Stored<'d>(HashMap<&'d str, &'d StoredInitializer>);

impl<'d> Stored<'d> {
    fn new(description: &'d OnnxFile) -> Self {
        Self(description.initializers.iter().map(|it| (&*it.name, it)).collect())
    }

    fn has_all<'m>(&self, matrices: impl Iterator<Item = &'m Matrix>) -> bool {
        matrices.flat_map(Matrix::weights).all(|weight| self.has(weight))
    }

    /// Whether the matrix of the logits is the candidate's: a model may have its own where
    /// the checkpoint uses the embedding, which is left as it is.
    fn has_no_other_logits(&self, candidate: &Checkpoint) -> bool {
        let known: Vec<&str> = candidate.weights.iter().map(|weight| &*weight.name).collect();
        let is_known = |name: &str| {
            known.iter().any(|known| {
                name.strip_prefix(known)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(".rows_"))
            })
        };
        let stored = self.0.iter().filter(|(_, it)| it.external.is_some());
        stored
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(LOGITS))
            .all(|name| is_known(name))
    }

    /// Whether the model has a weight, or its first rows apart from the others.
    fn has(&self, weight: &Weight) -> bool {
        let first = format!("{}.rows_0", weight.name);
        let whole = self.0.get(&*weight.name);
        let Some(found) = whole.or_else(|| self.0.get(&*first)) else { return false };
        let rows = found.shape.first().copied().unwrap_or_default();
        let bytes = found.dtype.and_then(|dtype| dtype.bytes(&found.shape));
        let row = weight.bytes() / weight.shape[0].max(1);
        is_dtype(weight.dtype, found.dtype) && bytes == row.checked_mul(rows)
    }
}

/// Whether a weight of a dtype is stored as it should be: what operators do not know
/// they take for bytes.
pub fn is_dtype(weight: DType, stored: Option<DType>) -> bool {
    match weight {
        DType::U8 | DType::F8E8M0 | DType::F8E5M2 => stored.is_none_or(|dtype| dtype.size() == 1),
        dtype => stored == Some(dtype),
    }
}
