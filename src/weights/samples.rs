//! What samples of weights tell: a fingerprint, and what an unfinished download, a failed save or a
//! training that diverged has left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Serialize, Serializer};

use super::fingerprint::Fingerprint;
use super::format::ElementKind;
use super::reader::{FileCache, count_in, is_zero, read_range, require_finite};
use super::recipe::Weight;
use crate::display::{listed, plural};
use crate::error::{Error, Result, Setting, err};
use crate::files::digest::{Digest, sample_ranges};
use crate::progress::Silent;

/// What samples of weights tell.
pub struct Samples {
    pub fingerprint: Fingerprint,
    pub faults: Faults,
}

/// What is wrong with weights, as far as samples tell.
#[derive(Default)]
pub struct Faults {
    pub zeros: Zeros,
    /// Weights of which sampled values are infinite or NaN.
    damaged: Vec<Weight>,
}

/// Weights of which all bytes are zero, and should not be, by their canonical names.
#[derive(Clone, Debug, Default)]
pub struct Zeros(BTreeMap<String, Weight>);

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
    /// Adds what a sample of a weight tells, or of the weights that it is converted from, and the sample
    /// and their headers to a digest.
    fn add(&mut self, hash: &mut Digest, weight: &Weight, files: &mut FileCache) -> Result<()> {
        let Weight { name, dtype, shape, .. } = weight;
        hash.update(format!("{name} {dtype} {shape:?}\n"));
        if let Some((conversion, _)) = weight.conversion() {
            hash.update(conversion.identity());
            return conversion.sources().try_for_each(|source| self.add(hash, source, files));
        }
        let (mut only_zeros, mut is_finite) = (!weight.may_be_zero(), true);
        for [start, end] in sample_ranges(weight.bytes()) {
            let sample = read_range(weight, files, start..end)?;
            only_zeros &= sample.iter().all(|byte| *byte == 0);
            // Samples may begin within an element.
            let whole = (start.next_multiple_of(dtype.size()) - start) as usize;
            is_finite &= count_in(weight, &sample[whole..]) == 0;
            hash.update(sample);
        }
        // Rows of tokens that nobody uses may be zeros.
        if only_zeros && is_zero(weight, files)? {
            self.zeros.0.insert(name.clone(), weight.clone());
        }
        if !is_finite {
            self.damaged.push(weight.clone());
        }
        Ok(())
    }

    /// Refuses damaged weights, and zeros that no model works with unless they are accepted.
    pub fn check(&self, accept_zeros: bool) -> Result<()> {
        let zeros = self.zeros.refusal().filter(|_| !accept_zeros);
        Error::all(self.damage().into_iter().chain(zeros))
    }

    /// The error for damaged weights: the values of the first, and the names of the others.
    fn damage(&self) -> Option<Error> {
        let (first, others) = self.damaged.split_first()?;
        let error = require_finite(first, &mut FileCache::default(), &Silent).err()?;
        let names = listed(others.iter().map(|it| &it.name));
        Some(if others.is_empty() {
            error
        } else {
            err!("{error}; samples of {names} have such values too")
        })
    }
}

impl Zeros {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The error for zeros that make the logits of all tokens equal, a layer blind to its input, or
    /// codes of MXFP4 count for nothing. Zeros elsewhere take a part out of the model, which may be
    /// intended.
    fn refusal(&self) -> Option<Error> {
        let ends = ["embedding.weight", "lm_head.weight", "norm.scale"];
        let is_vital = |(name, weight): &(&String, &Weight)| {
            let matrix = name.strip_suffix("scales");
            match matrix.filter(|_| weight.kind == ElementKind::Mxfp4Scales) {
                // A matrix of zeros has codes of zeros too.
                Some(matrix) => !self.0.contains_key(&format!("{matrix}blocks")),
                None => ends.iter().any(|end| name.ends_with(end)),
            }
        };
        let (name, _) = self.0.iter().find(is_vital)?;
        let error = err!(
            "{self}, and no model works with zeros in `{name}`: download or copy the files again, or accept the zeros"
        );
        Some(error.with_remedy(Setting::AcceptZeros, ""))
    }

    /// What to tell somebody who goes on.
    pub fn warning(&self) -> Option<String> {
        (!self.is_empty()).then(|| {
            format!("{self}: download or copy the files again, unless these zeros are intended")
        })
    }
}

impl fmt::Display for Zeros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.0.values().flat_map(|weight| weight.recipe.sources());
        let files: BTreeSet<_> = sources.map(|source| source.file.display().to_string()).collect();
        let (names, files) = (listed(self.0.keys()), listed(files.iter()));
        let count = plural(self.0.len(), "tensor");
        let are = if self.0.len() == 1 { "is" } else { "are" };
        write!(
            f,
            "{files}: {count}, {names}, {are} all zeros, as after an interrupted save or download"
        )
    }
}

impl Serialize for Zeros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.keys())
    }
}
