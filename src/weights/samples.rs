//! What samples of weights tell: a fingerprint, and what an unfinished download, a failed save or a
//! training that diverged has left.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use super::fingerprint::Fingerprint;
use super::format::ElementKind;
use super::reader::{FileCache, count_in, ensure_finite, is_zero, read_range, stored_names};
use super::recipe::Weight;
use crate::display::listed;
use crate::error::{Error, Result, Setting, err};
use crate::files::digest::{Digest, sample_ranges};

/// What samples of weights tell.
pub struct Samples {
    pub fingerprint: Fingerprint,
    pub faults: Faults,
}

/// What is wrong with weights, as far as samples tell.
#[derive(Default)]
pub struct Faults {
    pub zeros: Zeros,
    /// Weights of which sampled values are infinite or NaN, and how many.
    damaged: Vec<(Weight, u64)>,
}

/// Weights of which all sampled bytes are zero, and should not be.
#[derive(Clone, Debug, Default)]
pub struct Zeros {
    /// By their canonical names.
    weights: BTreeMap<String, Weight>,
    /// Whether samples of another weight have values.
    has_others: bool,
}

impl Fingerprint {
    /// Of the weights of a model with this config, [`Samples::of`].
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        Ok(Samples::of(config, weights)?.fingerprint)
    }
}

impl Samples {
    /// Of the weights of a model with this config. Converted weights count by their
    /// sources, so nothing is converted.
    pub fn of<'w>(config: &str, weights: impl IntoIterator<Item = &'w Weight>) -> Result<Self> {
        Self::read(config, weights, &mut FileCache::default())
    }

    /// Of the contents of a file that holds exactly these weights, whatever their order.
    pub fn of_stored<'w>(
        weights: impl IntoIterator<Item = &'w Weight>,
        files: &mut FileCache,
    ) -> Result<Self> {
        let mut weights: Vec<&Weight> = weights.into_iter().collect();
        weights.sort_by_key(|weight| &weight.name);
        Self::read("", weights, files)
    }

    fn read<'w>(
        prefix: &str,
        weights: impl IntoIterator<Item = &'w Weight>,
        files: &mut FileCache,
    ) -> Result<Self> {
        let (mut hash, mut faults) = (Fingerprint::begin(prefix), Faults::default());
        weights.into_iter().try_for_each(|weight| faults.add(&mut hash, weight, files))?;
        Ok(Self { fingerprint: Fingerprint::new(hash), faults })
    }
}

impl Faults {
    /// Adds a weight, or those that it is converted from: headers and samples to a digest, and what the
    /// samples tell.
    fn add(&mut self, hash: &mut Digest, weight: &Weight, files: &mut FileCache) -> Result<()> {
        let Weight { name, dtype, shape, .. } = weight;
        hash.update(format!("{name} {dtype} {shape:?}\n"));
        if let Some((conversion, _)) = weight.conversion() {
            hash.update(conversion.identity());
            return conversion.sources().try_for_each(|source| self.add(hash, source, files));
        }
        let (mut only_zeros, mut non_finite) = (true, 0);
        for [start, end] in sample_ranges(weight.bytes()) {
            let sample = read_range(weight, files, start..end)?;
            only_zeros &= sample.iter().all(|byte| *byte == 0);
            // Samples may begin within an element.
            let whole = (start.next_multiple_of(dtype.size()) - start) as usize;
            non_finite += count_in(weight, &sample[whole..]);
            hash.update(sample);
        }
        if !weight.may_be_zero() {
            self.zeros.add(weight, only_zeros);
        }
        if non_finite > 0 {
            self.damaged.push((weight.clone(), non_finite));
        }
        Ok(())
    }

    /// Refuses weights of which sampled values are infinite or NaN. The error has the stored name of the
    /// first.
    pub fn require_finite(&self) -> Result<()> {
        let Some(((first, non_finite), others)) = self.damaged.split_first() else { return Ok(()) };
        ensure_finite(first, *non_finite).map_err(|error| {
            if others.is_empty() {
                return error;
            }
            let others = listed(others.iter().map(|(weight, _)| &weight.name));
            err!("{error}; samples of {others} have such values too")
        })
    }
}

impl Zeros {
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    fn add(&mut self, weight: &Weight, is_zero: bool) {
        if is_zero {
            self.weights.insert(weight.name.clone(), weight.clone());
        } else {
            self.has_others = true;
        }
    }

    /// Refuses vital weights of which all bytes are zero. A file of zeros alone reserves space, and is no
    /// damaged model.
    pub fn require_vital(&self) -> Result<()> {
        let mut files = FileCache::default();
        let mut vital = self.weights.values().filter(|it| self.has_others && self.is_vital(it));
        let zero = vital.try_fold(Vec::new(), |mut zero, weight| {
            zero.extend(is_zero(weight, &mut files)?.then_some(weight));
            Ok::<_, Error>(zero)
        })?;
        if zero.is_empty() {
            return Ok(());
        }
        let (files, names) = named(&zero);
        let end = "and the model cannot work as trained: download or copy the files again, or accept zeros that are intended";
        Err(err!("{files}: all bytes of {names} are zeros, as after an interrupted save or download, {end}")
            .with_remedy(Setting::IgnoreZeros, ""))
    }

    /// What to tell of weights without which no model works, and of others, whose zeros take a part out
    /// of the model.
    pub fn warnings(&self) -> Vec<String> {
        let (vital, others): (Vec<_>, Vec<_>) =
            self.weights.values().partition(|it| self.is_vital(it));
        let told = |weights: Vec<&Weight>, end: &str| {
            let (files, names) = named(&weights);
            (!weights.is_empty()).then(|| {
                format!("{files}: samples of {names} are all zeros, as after an interrupted save or download{end}")
            })
        };
        let vital = told(
            vital,
            ", without which the model cannot work as trained: download or copy the files again",
        );
        let end = ": download or copy the files again, unless these zeros are intended";
        vital.into_iter().chain(told(others, end)).collect()
    }

    /// Whether its zeros make the logits of all tokens equal, a layer blind to its input, or codes of
    /// MXFP4 count for nothing. A matrix of zeros has codes of zeros too.
    fn is_vital(&self, Weight { name, kind, .. }: &Weight) -> bool {
        match name.strip_suffix("scales") {
            Some(matrix) if *kind == ElementKind::Mxfp4Scales => {
                !self.weights.contains_key(&format!("{matrix}blocks"))
            }
            _ => ["embedding.weight", "lm_head.weight", "norm.scale"]
                .iter()
                .any(|end| name.ends_with(end)),
        }
    }
}

/// The files and the stored names of weights, for a sentence.
fn named(weights: &[&Weight]) -> (String, String) {
    let sources = || weights.iter().flat_map(|weight| weight.recipe.sources());
    let files: BTreeSet<_> = sources().map(|it| it.file.display().to_string()).collect();
    (listed(files.iter()), listed(stored_names(sources()).iter()))
}

impl Serialize for Zeros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.weights.keys())
    }
}
