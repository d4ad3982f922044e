//! Adapters applied to the weights of their base.

use std::path::Path;

use super::{Adapter, Replacement};
use crate::checkpoint::{Checkpoint, ModelWeights};
use crate::error::{Result, bail, ensure};
use crate::weights::{
    Changes, FileCache, LowRank, Matrix, NewRows, Role, Weight, has_equal_values,
};

/// Applies adapters that fit a base, each with a weight that multiplies what it adds: first all
/// that they replace, then all that they add.
pub fn apply(base: &mut Checkpoint, adapters: &[(Adapter, f64)]) -> Result<()> {
    if adapters.is_empty() {
        return Ok(());
    }
    base.split_qkv();
    let (mut earlier, mut changed) = (Vec::new(), Vec::new());
    for (number, (adapter, factor)) in adapters.iter().enumerate() {
        for it in &adapter.replacements {
            let there = base.weights.iter().find(|weight| weight.name == it.weight.name);
            match is_copy(it, there)? {
                Some(true) => continue,
                Some(false) => check(&adapter.file, it, *factor, &mut earlier)?,
                // The base is still to be downloaded, and opened again then.
                None => {}
            }
            changed.push((it, number));
        }
    }
    // Afterwards, as a copy has the values of the base alone.
    changed.into_iter().for_each(|(it, number)| replace(&mut base.weights, it, number));
    for (number, (adapter, factor)) in adapters.iter().enumerate() {
        for term in &adapter.terms {
            let mut term = weighted(term, *factor, &adapter.file)?;
            term.weights_mut().for_each(|weight| weight.name += &suffix(number));
            changes(&mut base.weights, &term.matrix).terms.push(term);
        }
    }
    for role in Role::ALL {
        base.provenances[role].retain_formats(base.weights.formats(role));
    }
    Ok(())
}

/// A term of the adapter in a file, multiplied by a factor.
pub fn weighted(term: &LowRank, factor: f64, file: &Path) -> Result<LowRank> {
    let scale = factor * term.scale;
    // Operators compute with it in f32.
    ensure!(
        (scale as f32).is_finite(),
        "`{}` scales what it adds to `{}` by {scale:e}, more than float32 holds: use a smaller weight, or the `lora_alpha` that it was trained with",
        file.display(),
        term.path
    );
    Ok(LowRank { scale, ..term.clone() })
}

/// Whether a replacement has the values of the base's weight of this name; `None` if these are not
/// on this machine.
pub fn is_copy(it: &Replacement, there: Option<&Weight>) -> Result<Option<bool>> {
    let Replacement { tokens, weight, .. } = it;
    let Some(there) = there.filter(|_| tokens.is_none()) else { return Ok(Some(false)) };
    if there.recipe.sources().iter().any(|source| !source.file.exists()) {
        return Ok(None);
    }
    has_equal_values(there, weight, &mut FileCache::default()).map(Some)
}

/// Refuses a replacement that is to be weighted, or that an earlier adapter has made already.
fn check<'a>(
    file: &'a Path,
    it: &'a Replacement,
    factor: f64,
    earlier: &mut Vec<(&'a Path, &'a Replacement)>,
) -> Result<()> {
    let (shown, name) = (file.display(), &it.replaced);
    ensure!(
        factor == 1.0,
        "`{shown}` replaces values of `{name}`, and a weight multiplies only what an adapter adds: give it the weight 1, found {factor}"
    );
    let is_same = |(other, earlier): &&(&Path, &Replacement)| {
        *other != file && earlier.replaced == *name && overlap(earlier, it)
    };
    if let Some((other, _)) = earlier.iter().find(is_same) {
        let other = other.display();
        bail!(
            "`{other}` and `{shown}` both replace values of `{name}`, and a model has one of them: leave one adapter out"
        );
    }
    earlier.push((file, it));
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
