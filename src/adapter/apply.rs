//! Adapters applied to the weights of their base.

use super::{Adapter, Replacement};
use crate::checkpoint::{Checkpoint, ModelWeights};
use crate::error::{Result, bail, ensure};
use crate::progress::{Progress, Unit, phase};
use crate::weights::{Changes, FileCache, Matrix, NewRows, Role, Weight, has_equal_values};

/// Applies adapters that fit a base: first all that they replace, then all that they add. Copies of
/// the base's values are told by reading both, and replace nothing.
pub fn apply(base: &mut Checkpoint, adapters: &[&Adapter], progress: &dyn Progress) -> Result<()> {
    if adapters.is_empty() {
        return Ok(());
    }
    base.split_qkv();
    let (mut certain, mut changed) = (Vec::new(), Vec::new());
    for (number, adapter) in adapters.iter().enumerate() {
        for it in &adapter.replacements {
            let there = base.weights.get(&it.weight.name);
            match is_copy(it, there, progress)? {
                Some(true) => continue,
                Some(false) => {
                    check(adapter, it, &adapters[..number], &certain)?;
                    certain.push((number, it));
                }
                // The base is still to be downloaded, and opened again then.
                None => {}
            }
            changed.push((number, it));
        }
    }
    // Afterwards, as a copy has the values of the base alone.
    changed.into_iter().for_each(|(number, it)| replace(&mut base.weights, it, number));
    for (number, adapter) in adapters.iter().enumerate() {
        for mut term in adapter.terms.iter().cloned() {
            term.weights_mut().for_each(|weight| weight.name += &suffix(number));
            changes(&mut base.weights, &term.matrix).terms.push(term);
        }
    }
    for role in Role::ALL {
        base.provenances[role].retain_formats(base.weights.formats(role));
    }
    Ok(())
}

/// Whether a replacement has the values of the base's weight of this name; `None` if these are not
/// on this machine.
pub fn is_copy(
    it: &Replacement,
    there: Option<&Weight>,
    progress: &dyn Progress,
) -> Result<Option<bool>> {
    let Replacement { tokens, weight, .. } = it;
    let Some(there) = there.filter(|_| tokens.is_none()) else { return Ok(Some(false)) };
    if there.recipe.sources().iter().any(|source| !source.file.exists()) {
        return Ok(None);
    }
    let bytes = there.bytes() + weight.bytes();
    let _phase = phase(progress, "comparing adapter and base", Unit::Bytes, bytes);
    has_equal_values(there, weight, &mut FileCache::default(), progress).map(Some)
}

/// Refuses a replacement that is to be weighted, or that is among those of the `earlier` adapters.
/// `certain` has the number of an adapter with each.
fn check(
    adapter: &Adapter,
    it: &Replacement,
    earlier: &[&Adapter],
    certain: &[(usize, &Replacement)],
) -> Result<()> {
    let (shown, name) = (adapter.file.display(), &it.replaced);
    ensure!(
        adapter.weight == 1.0,
        "`{shown}` replaces values of `{name}`, and a weight multiplies only what an adapter adds: give it the weight 1, found {}",
        adapter.weight
    );
    let is_same = |other: &Replacement| other.replaced == *name && overlap(other, it);
    let mut others = certain.iter().filter(|(_, other)| is_same(other));
    if let Some(other) = others.find_map(|(number, _)| earlier.get(*number)) {
        bail!(
            "`{}` and `{shown}` both replace values of `{name}`, and a model has one of them: leave one adapter out",
            other.file.display()
        );
    }
    Ok(())
}

fn overlap(one: &Replacement, other: &Replacement) -> bool {
    let (Some(one), Some(other)) = (&one.tokens, &other.tokens) else { return true };
    one.iter().any(|token| other.contains(token))
}

fn replace(base: &mut ModelWeights, it: &Replacement, number: usize) {
    let Replacement { replaced, tokens, weight } = it;
    if let Some(tokens) = tokens {
        let (mut weight, places) = (weight.clone(), tokens.clone());
        weight.name += &suffix(number);
        changes(base, replaced).rows.push(NewRows { places, weight });
    } else if *weight.name == *base.embedding.weight.name {
        base.embedding.weight = weight.clone();
    } else if let Some(linear) = base.linears_mut().find(|it| it.matrix.path == *replaced) {
        linear.matrix = Matrix::from_weight(replaced, weight);
    } else {
        let vector = base.vectors_mut().find(|it| it.name == *replaced);
        *vector.expect("an adapter that fits") = weight.clone();
    }
}

/// The changes of the matrix with this path, which an adapter that fits has.
fn changes<'w>(base: &'w mut ModelWeights, path: &str) -> &'w mut Changes {
    if path == "embedding" {
        return &mut base.embedding.changes;
    }
    let found = if path.contains(".experts.") {
        base.experts_mut().find(|it| it.matrix.path == path).map(|it| &mut it.changes)
    } else {
        base.linears_mut().find(|it| it.matrix.path == path).map(|it| &mut it.changes)
    };
    found.expect("an adapter that fits")
}

/// What the names of weights have in addition if several adapters change a matrix.
fn suffix(number: usize) -> String {
    if number == 0 { String::new() } else { format!("_{}", number + 1) }
}
