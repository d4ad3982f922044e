//! What remains once a layout has taken its tensors. First of all where a config and the names of
//! tensors disagree as a whole, and either may be right: in the layers, the biases of attention, the
//! lm_head.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::config::Config;
use super::names::layer;
use super::similar::Similar;
use super::tensors::{Missing, Tensors};
use crate::container::StoredTensor;
use crate::display::{listed, plural};
use crate::error::{Error, err};

/// Tensors that a layout lacks, and those that it does not know. Each error takes out what it is about.
pub struct Unmatched<'t> {
    pub tensors: &'t Tensors,
    /// The layout, for people.
    pub layout: &'t str,
    pub config: &'t Config,
    /// The file of the config.
    pub file: &'t str,
    pub lacking: Vec<&'t Missing>,
    /// Unknown tensors by their names in the layout.
    pub unknown: BTreeMap<&'t str, &'t StoredTensor>,
}

/// Names of lm_heads in Hugging Face's layout, and of what other tasks have in their place.
const LM_HEAD: &str = "lm_head.weight";
const OTHER_HEADS: [&str; 6] =
    ["score.", "classifier.", "qa_outputs.", "v_head.", "value_head.", "regression_head."];

impl<'t> Unmatched<'t> {
    /// The errors for what disagrees with the config.
    pub fn mismatches(&mut self) -> Vec<Error> {
        let found = [
            self.layers(),
            self.needless_biases(),
            self.missing_biases(),
            self.head(),
            self.needless_head(),
        ];
        found.into_iter().flatten().collect()
    }

    pub fn take_unknown(
        &mut self,
        is_taken: impl Fn(&str, &StoredTensor) -> bool,
    ) -> Vec<&'t StoredTensor> {
        let taken: BTreeMap<_, _>;
        let unknown = mem::take(&mut self.unknown).into_iter();
        (taken, self.unknown) = unknown.partition(|(name, it)| is_taken(name, it));
        taken.into_values().collect()
    }

    /// The error with ignoring these tensors as one of two remedies.
    fn or_ignore(&self, error: Error, found: &[&StoredTensor]) -> Error {
        self.tensors.ignoring(error, found.iter().map(|it| &*it.name)).with_another_remedy()
    }

    /// The shapes of which more tensors are unknown, beside some lacking ones, than others are lacking.
    fn spare(&self, is_it: impl Fn(&str) -> bool) -> BTreeSet<&'t [u64]> {
        let (them, others): (Vec<&Missing>, Vec<&Missing>) =
            self.lacking.iter().partition(|it| is_it(&it.name));
        let is_beside = beside(self.tensors, &them);
        let found = self.unknown.iter().filter(|(name, _)| is_beside(name) && !is_other_head(name));
        let mut more = BTreeMap::<&[u64], isize>::new();
        found.for_each(|(_, it)| *more.entry(&it.shape).or_default() += 1);
        others.iter().for_each(|it| *more.entry(&it.shape).or_default() -= 1);
        more.into_iter().filter(|(_, count)| *count > 0).map(|(shape, _)| shape).collect()
    }

    /// Layers that the config does not count, or counts in vain.
    pub fn layers(&mut self) -> Option<Error> {
        let (path, layers) = (self.tensors.path.display(), self.config.num_layers());
        let there = self.tensors.layers_there();
        let end = there.last()? + 1;
        let gaps: Vec<usize> = (0..end).filter(|n| !there.contains(n)).collect();
        let lacking = self.lacking.len();
        self.lacking.retain(|it| layer(&it.name).is_none_or(|n| there.contains(&n)));
        let others = self.take_unknown(|name, _| layer(name).is_some_and(|n| n >= layers));
        if lacking == self.lacking.len() && others.is_empty() {
            return None;
        }
        let config =
            format!("`{}` describes {} (`num_hidden_layers`)", self.file, plural(layers, "layer"));
        let found = plural(there.len(), "layer");
        if (0..layers).all(|n| there.contains(&n)) {
            let to = if gaps.is_empty() { format!(" to {end}") } else { String::new() };
            let error = err!(
                "{config}, and `{path}` holds tensors of {found}, such as `{}`: set the key{to} if they all are layers of the model, or ignore the others",
                others[0].name
            );
            return Some(self.or_ignore(error, &others));
        }
        if gaps.is_empty() {
            let doubt = self.tensors.doubt();
            return Some(err!(
                "{config}, and `{path}` holds {found}: add the tensors of the others, or set the key to {end} (and shorten `layer_types`, if it is there) if the model has no others{doubt}"
            ));
        }
        Some(err!(
            "{config}, and `{path}` holds {found}, up to number {} without {}: add the tensors of those, or, if these layers were removed, number the others from 0 without gaps, set the key to {}, and remove the entries of the removed ones from `layer_types`, if it is there",
            end - 1,
            listed(gaps.iter()),
            there.len()
        ))
    }

    fn needless_biases(&mut self) -> Option<Error> {
        if self.config.attention_bias {
            return None;
        }
        // Whatever a vector beside a matrix of attention is called.
        let tensors = self.tensors;
        let is_vector = |name: &str, shape: &[u64]| {
            let module = name.rsplit_once('.').map(|(module, _)| format!("{module}.weight"));
            let matrix = module.filter(|it| it.contains(".self_attn."));
            let matrix = matrix.and_then(|matrix| tensors.taken.get(&matrix));
            matrix.is_some_and(|it| shape.len() == 1 && it.shape.first() == shape.first())
        };
        let biases =
            self.take_unknown(|name, it| is_attention_bias(name) || is_vector(name, &it.shape));
        let error = err!(
            "`{}` says that attention has no biases (`attention_bias` false), and `{}` holds {}, such as `{}`: set the key to true if the model adds them, or ignore them if not",
            self.file,
            self.tensors.path.display(),
            plural(biases.len(), "tensor"),
            biases.first()?.name
        );
        Some(self.or_ignore(error, &biases))
    }

    fn missing_biases(&mut self) -> Option<Error> {
        let first = self.lacking.iter().find(|it| is_attention_bias(&it.name))?;
        let has_any = self.tensors.wanted().any(is_attention_bias);
        // A vector may be a bias under another name.
        let may_have_any = || self.spare(is_attention_bias).iter().any(|shape| shape.len() == 1);
        if has_any || may_have_any() {
            return None;
        }
        let error = err!(
            "`{}` says that attention has biases (`attention_bias`, true unless set), and `{}` holds none such as `{}`: set the key to false if the model has none",
            self.file,
            self.tensors.path.display(),
            first.name
        );
        self.lacking.retain(|it| !is_attention_bias(&it.name));
        Some(error)
    }

    fn needless_head(&mut self) -> Option<Error> {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        if !self.config.tied || self.lacking.iter().any(|lacking| lacking.shape == shape) {
            return None;
        }
        let heads = self.take_unknown(|name, it| layer(name).is_none() && it.shape == shape);
        let error = err!(
            "`{}` ties lm_head to the embedding (`tie_word_embeddings`), and `{}` holds `{}` of its shape: rename it to `{LM_HEAD}` if it is the language-model head, or ignore it if not",
            self.file,
            self.tensors.path.display(),
            heads.first()?.name
        );
        Some(self.or_ignore(error, &heads))
    }

    fn head(&mut self) -> Option<Error> {
        let at = self.lacking.iter().position(|it| it.name == LM_HEAD)?;
        let spare = self.spare(|name| name == LM_HEAD);
        let is_similar = || Similar::new(self.unknown.keys().copied()).to(LM_HEAD).is_some();
        if spare.contains(&self.lacking[at].shape[..]) || is_similar() {
            return None;
        }
        self.lacking.remove(at);
        let others = self.take_unknown(|name, _| is_other_head(name));
        let path = self.tensors.path.display();
        Some(match others.first() {
            Some(other) => err!(
                "`{path}` holds `{}`, the head of a model for another task, and no `{LM_HEAD}`: only models with a language-model head can be exported: add the head of the model that this one was trained from, as GptOssForCausalLM would begin with a random one",
                other.name
            ),
            None => err!(
                "`{path}` lacks `{}{LM_HEAD}`, the language-model head, and `{}` does not tie it to the embedding: save the model with the head that it was trained with (from GptOssForCausalLM, not from GptOssModel), or set `tie_word_embeddings` to true if the embedding is the head",
                self.tensors.wrapping.prefix,
                self.file
            ),
        })
    }
}

/// Whether a name is of a layer that lacks some of these tensors, or any if no name tells a layer.
pub fn beside(tensors: &Tensors, lacking: &[&Missing]) -> impl Fn(&str) -> bool + use<> {
    let layers: BTreeSet<_> = lacking.iter().map(|it| layer(&it.name)).collect();
    let is_unnamed = tensors.layers_there().is_empty();
    move |name| is_unnamed || layers.contains(&layer(name))
}

fn is_other_head(name: &str) -> bool {
    OTHER_HEADS.iter().any(|head| name.starts_with(head))
}

/// Whether a tensor is a bias of attention, whatever its module is called.
pub fn is_attention_bias(name: &str) -> bool {
    ["q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.bias"]
        .iter()
        .any(|end| name.ends_with(end))
}
