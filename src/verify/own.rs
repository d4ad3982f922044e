//! A model's own numbers: where matrices were rounded when it was made, the reference
//! can compute with what became of them, as the model does.

use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::files::FileRange;
use crate::files::parent_dir;
use crate::onnx::{Description, External, Initializer};
use crate::weights::{Matrix, Recipe, Role, Weight};

/// A checkpoint in a model's formats, with what was converted read from the model's
/// files. Whether that is what the conversion makes, the comparison of bytes tells.
pub fn own(made: &Checkpoint, model: &Path, description: &Description) -> Checkpoint {
    let named = description.initializers.iter().map(|stored| (&*stored.name, stored));
    let named: HashMap<&str, &Initializer> = named.collect();
    let mut own = made.clone();
    for role in Role::ALL {
        let matrices = own.weights.matrices_mut(role);
        for weight in matrices.flat_map(Matrix::weights_mut).filter(|weight| weight.is_converted())
        {
            // Rows of one weight follow each other.
            let first = format!("{}.rows_0", weight.name);
            let stored = named.get(&*weight.name).or_else(|| named.get(&*first));
            if let Some(External { file, offset, .. }) =
                stored.and_then(|stored| stored.external.as_ref())
            {
                weight.recipe = Recipe::Slice(source(parent_dir(model), file, *offset, weight));
            }
        }
    }
    own
}

fn source(folder: &Path, file: &str, offset: u64, weight: &Weight) -> FileRange {
    FileRange { file: folder.join(file).into(), range: offset..offset + weight.bytes() }
}
