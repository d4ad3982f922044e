//! Where a config and the names of tensors disagree as a whole, and either may be right: in the
//! layers, the biases of attention, the lm_head.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Config;
use super::names::layer;
use super::similar::Similar;
use super::tensors::{Missing, Tensors};
use crate::display::{listed, plural};
use crate::error::{Error, err};

/// A config, and what it was read from.
#[derive(Clone, Copy)]
pub struct ReadConfig<'c> {
    pub config: &'c Config,
    pub file: &'c str,
}

/// What remains once a layout has taken its tensors.
pub struct Unmatched<'t> {
    /// Those that it has not found.
    pub lacking: Vec<&'t Missing>,
    /// Names of those that it has not taken.
    pub unknown: BTreeSet<&'t str>,
}

/// Names of lm_heads in Hugging Face's layout, and of what other tasks have in their place.
const LM_HEAD: &str = "lm_head.weight";
const OTHER_HEADS: [&str; 6] =
    ["score.", "classifier.", "qa_outputs.", "v_head.", "value_head.", "regression_head."];

impl<'t> Unmatched<'t> {
    /// The errors for what disagrees, which is taken out.
    pub fn mismatches(&mut self, tensors: &Tensors, it: ReadConfig) -> Vec<Error> {
        let found = [
            self.layers(tensors, it),
            self.needless_biases(tensors, it),
            self.missing_biases(tensors, it),
            self.head(tensors, it),
            self.needless_head(tensors, it),
        ];
        found.into_iter().flatten().collect()
    }

    /// The unknown tensors that may be lacking ones of these layers under other names.
    pub fn take_beside(
        &mut self,
        tensors: &Tensors,
        layers: &BTreeSet<Option<usize>>,
    ) -> BTreeSet<&'t str> {
        let is_beside = beside(tensors, layers);
        self.take_unknown(is_beside)
    }

    /// The shapes of which more tensors are unknown, beside some lacking ones, than others are lacking.
    fn spare(&self, tensors: &'t Tensors, is_it: impl Fn(&str) -> bool) -> BTreeSet<&'t [u64]> {
        let (them, others): (Vec<&Missing>, Vec<&Missing>) =
            self.lacking.iter().partition(|it| is_it(&it.name));
        let layers = them.iter().map(|it| layer(&it.name)).collect();
        let is_beside = beside(tensors, &layers);
        let mut more = BTreeMap::<&[u64], isize>::new();
        let found = self.unknown.iter().filter(|name| is_beside(name) && !is_other_head(name));
        found.for_each(|name| *more.entry(&tensors.map[*name].shape).or_default() += 1);
        others.iter().for_each(|it| *more.entry(&it.shape).or_default() -= 1);
        more.into_iter().filter(|(_, count)| *count > 0).map(|(shape, _)| shape).collect()
    }

    pub fn take_unknown(&mut self, is_taken: impl Fn(&str) -> bool) -> BTreeSet<&'t str> {
        let (taken, others) = self.unknown.iter().partition(|name| is_taken(name));
        self.unknown = others;
        taken
    }

    /// Layers that the config does not count, or counts in vain.
    pub fn layers(
        &mut self,
        tensors: &Tensors,
        ReadConfig { config, file }: ReadConfig,
    ) -> Option<Error> {
        let layers = config.num_layers();
        let there: BTreeSet<usize> = tensors.wanted().filter_map(layer).collect();
        let end = there.last()? + 1;
        let gaps: Vec<usize> = (0..end).filter(|n| !there.contains(n)).collect();
        let is_there = |name: &str| layer(name).is_none_or(|n| there.contains(&n));
        let (lacking, path) = (self.lacking.len(), tensors.path.display());
        self.lacking.retain(|it| is_there(&it.name));
        let others = self.take_unknown(|name| layer(name).is_some_and(|n| n >= layers));
        if lacking == self.lacking.len() && others.is_empty() {
            return None;
        }
        let config =
            format!("`{file}` describes {} (`num_hidden_layers`)", plural(layers, "layer"));
        let found = plural(there.len(), "layer");
        if (0..layers).all(|n| there.contains(&n)) {
            let names: Vec<&str> = others.iter().map(|name| &*tensors.map[*name].name).collect();
            let to = if gaps.is_empty() { format!(" to {end}") } else { String::new() };
            let error = err!(
                "{config}, and `{path}` holds tensors of {found}, such as `{}`: set the key{to} if they all are layers of the model, or ignore the others",
                names[0]
            );
            return Some(tensors.ignoring(error, &names).with_another_remedy());
        }
        if gaps.is_empty() {
            let doubt = tensors.doubt();
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

    fn needless_biases(&mut self, tensors: &Tensors, it: ReadConfig) -> Option<Error> {
        if it.config.attention_bias {
            return None;
        }
        // Whatever a vector beside a matrix of attention is called.
        let is_vector = |name: &str| {
            let module = name.rsplit_once('.').map(|(module, _)| format!("{module}.weight"));
            let matrix = module.filter(|it| it.contains(".self_attn."));
            let matrix = matrix.and_then(|matrix| tensors.taken.get(&matrix));
            let shape = &tensors.map[name].shape;
            matrix.is_some_and(|it| shape.len() == 1 && it.shape.first() == shape.first())
        };
        let biases = self.take_unknown(|name| is_attention_bias(name) || is_vector(name));
        let names: Vec<&str> = biases.iter().map(|name| &*tensors.map[*name].name).collect();
        let error = err!(
            "`{}` says that attention has no biases (`attention_bias` false), and `{}` holds {}, such as `{}`: set the key to true if the model adds them, or ignore them if not",
            it.file,
            tensors.path.display(),
            plural(names.len(), "tensor"),
            names.first()?
        );
        Some(tensors.ignoring(error, &names).with_another_remedy())
    }

    fn missing_biases(&mut self, tensors: &Tensors, it: ReadConfig) -> Option<Error> {
        let Missing { name: first, .. } =
            self.lacking.iter().find(|it| is_attention_bias(&it.name))?;
        let is_there = |name: &&str| is_attention_bias(name);
        let is_known = tensors.wanted().any(is_attention_bias) || self.unknown.iter().any(is_there);
        // A vector may be a bias under another name.
        if is_known || self.spare(tensors, is_attention_bias).iter().any(|shape| shape.len() == 1) {
            return None;
        }
        let error = err!(
            "`{}` says that attention has biases (`attention_bias`, true unless set), and `{}` holds none such as `{first}`: set the key to false if the model has none",
            it.file,
            tensors.path.display()
        );
        self.lacking.retain(|it| !is_attention_bias(&it.name));
        Some(error)
    }

    fn needless_head(&mut self, tensors: &Tensors, it: ReadConfig) -> Option<Error> {
        let shape = [it.config.vocab_size, it.config.hidden_size];
        if !it.config.tied || self.lacking.iter().any(|lacking| lacking.shape == shape) {
            return None;
        }
        let heads =
            self.take_unknown(|name| layer(name).is_none() && tensors.map[name].shape == shape);
        let names: Vec<&str> = heads.iter().map(|name| &*tensors.map[*name].name).collect();
        let error = err!(
            "`{}` ties lm_head to the embedding (`tie_word_embeddings`), and `{}` holds `{}` of its shape: rename it to `{LM_HEAD}` if it is the language-model head, or ignore it if not",
            it.file,
            tensors.path.display(),
            names.first()?
        );
        Some(tensors.ignoring(error, &names).with_another_remedy())
    }

    fn head(&mut self, tensors: &Tensors, ReadConfig { file, .. }: ReadConfig) -> Option<Error> {
        let at = self.lacking.iter().position(|it| it.name == LM_HEAD)?;
        let spare = self.spare(tensors, |name| name == LM_HEAD);
        let is_similar = || Similar::new(self.unknown.iter().copied()).to(LM_HEAD).is_some();
        if spare.contains(&self.lacking[at].shape[..]) || is_similar() {
            return None;
        }
        self.lacking.remove(at);
        let others = self.take_unknown(is_other_head);
        let path = tensors.path.display();
        Some(match others.first() {
            Some(other) => err!(
                "`{path}` holds `{}`, the head of a model for another task, and no `{LM_HEAD}`: only models with a language-model head can be exported: add the head of the model that this one was trained from, as GptOssForCausalLM would begin with a random one",
                tensors.map[*other].name
            ),
            None => err!(
                "`{path}` lacks `{}{LM_HEAD}`, the language-model head, and `{file}` does not tie it to the embedding: save the model with the head that it was trained with (from GptOssForCausalLM, not from GptOssModel), or set `tie_word_embeddings` to true if the embedding is the head",
                tensors.wrapping.prefix
            ),
        })
    }
}

/// Whether an unknown tensor is in one of these layers, or in any if no layer is there by its name.
fn beside(tensors: &Tensors, layers: &BTreeSet<Option<usize>>) -> impl Fn(&str) -> bool {
    let is_unnamed = !tensors.wanted().any(|name| layer(name).is_some());
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
