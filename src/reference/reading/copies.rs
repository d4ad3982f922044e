//! Whole values of adapters, of which those that equal the checkpoint's replace nothing: PEFT stores
//! such copies beside factors.

use std::collections::BTreeMap;
use std::slice::from_ref;

use super::quantities::Reader;
use super::tensors::{TensorInFile, TensorsInFiles};
use crate::error::{Result, ensure};
use crate::reference::matrix::StoredMatrix;
use crate::reference::model::{Hyperparameters, ReferenceModel};

/// Rows of a large matrix that are compared at once.
const ROWS: u64 = 1 << 10;

/// Values by the reference's names, one of each adapter that has some of the name.
pub type ValuesOfAdapters = BTreeMap<String, Vec<TensorInFile>>;

/// The value of each name that counts, whatever the order of adapters: of several the one that
/// differs from what the reader has of the checkpoint.
pub fn without_copies(
    reader: &mut Reader,
    numbers: &Hyperparameters,
    values: ValuesOfAdapters,
) -> Result<TensorsInFiles> {
    let mut counting = TensorsInFiles::new();
    for (name, tensors) in values {
        let is_alone = tensors.len() == 1;
        for tensor in tensors {
            if is_alone || !is_copy(reader, numbers, &name, &tensor)? {
                let file = tensor.data.file.clone();
                let other = counting.insert(name.clone(), tensor);
                let other = other.map(|it| it.data.file.display().to_string());
                ensure!(
                    other.is_none(),
                    "`{}` and `{}` both replace `{name}`: leave one adapter out",
                    other.unwrap_or_default(),
                    file.display()
                );
            }
        }
    }
    Ok(counting)
}

/// Whether a model with a tensor under this name has the numbers of the checkpoint's.
fn is_copy(
    reader: &mut Reader,
    numbers: &Hyperparameters,
    name: &str,
    tensor: &TensorInFile,
) -> Result<bool> {
    let before = reader.model(numbers.clone())?;
    let tensors = &mut reader.tensors.by_name;
    let own = tensors.insert(name.to_owned(), tensor.clone());
    let after = reader.model(numbers.clone());
    let tensors = &mut reader.tensors.by_name;
    match own {
        Some(own) => tensors.insert(name.to_owned(), own),
        None => tensors.remove(name),
    };
    has_equal_numbers(&before, &after?)
}

fn has_equal_numbers(one: &ReferenceModel, other: &ReferenceModel) -> Result<bool> {
    for (one, other) in one.vectors().zip(other.vectors()) {
        if !are_equal(from_ref(one), from_ref(other), false)? {
            return Ok(false);
        }
    }
    for (one, other) in one.linear_maps().zip(other.linear_maps()) {
        if !are_equal(&one.weights, &other.weights, one.alternates)?
            || !are_equal(&one.biases, &other.biases, one.alternates)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether some matrices, or parts of a bias, have the numbers of others.
fn are_equal(one: &[StoredMatrix], other: &[StoredMatrix], alternate: bool) -> Result<bool> {
    if one == other {
        return Ok(true);
    }
    let ([one], [other]) = (one, other) else {
        return Ok(joined(one, alternate)? == joined(other, alternate)?);
    };
    if one.sides() != other.sides() || one.is_transposed != other.is_transposed {
        return Ok(false);
    }
    let [a, b] = [one.open()?, other.open()?];
    for start in (0..one.rows).step_by(ROWS as usize) {
        let rows = start..one.rows.min(start + ROWS);
        if a.rows::<f32>(rows.clone())? != b.rows::<f32>(rows)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The numbers of several parts as one: one part after the other, or in turn.
fn joined(parts: &[StoredMatrix], alternate: bool) -> Result<Vec<f32>> {
    let parts = parts.iter().map(|it| Ok(it.values::<f32>()?.into_raw_vec_and_offset().0));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    Ok(match &parts[..] {
        [even, odd] if alternate => {
            even.iter().zip(odd).flat_map(|(it, odd)| [*it, *odd]).collect()
        }
        parts => parts.concat(),
    })
}
