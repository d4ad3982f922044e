//! A model's own numbers: where matrices were rounded when it was made, the reference
//! can compute with what became of them, as the model does.

use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::files::{FileRange, parent_dir};
use crate::onnx::{OnnxFile, StoredInitializer};
use crate::weights::{Matrix, Recipe, Role, Weight};

/// A checkpoint in a model's formats, with what was converted read from the model's
/// files. Whether that is what the conversion makes, the comparison of bytes tells.
pub fn own(made: &Checkpoint, model: &Path, description: &OnnxFile) -> Checkpoint {
    let named = description.initializers.iter().map(|stored| (&*stored.name, stored));
    let named: HashMap<&str, &StoredInitializer> = named.collect();
    let mut own = made.clone();
    for role in Role::ALL {
        let matrices = own.weights.matrices_mut(role);
        for weight in matrices.flat_map(Matrix::weights_mut).filter(|weight| weight.is_converted())
        {
            // Rows of one weight follow each other.
            let first = format!("{}.rows_0", weight.name);
            let stored = named.get(&*weight.name).or_else(|| named.get(&*first));
            if let Some(FileRange { file, range }) = stored.and_then(|it| it.external.as_ref()) {
                weight.recipe = Recipe::Slice(source(parent_dir(model), file, range.start, weight));
            }
        }
    }
    own
}

fn source(folder: &Path, file: &Path, offset: u64, weight: &Weight) -> FileRange {
    FileRange { file: folder.join(file).into(), range: offset..offset + weight.bytes() }
}
