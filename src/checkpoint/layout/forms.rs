//! The form of each matrix, which the names of its tensors decide. Shapes cannot: square matrices
//! have the same in both orders.

use std::collections::BTreeMap;

use super::{Form, Layout};
use crate::checkpoint::problems;
use crate::checkpoint::suggest::listed;
use crate::checkpoint::tensors::Tensors;
use crate::error::{Error, Result, err};
use crate::weights::MatrixFormat;

/// The matrices of a layer's experts.
const MATRICES: [&str; 2] = ["gate_up", "down"];

impl Layout {
    /// The form of a matrix, if any of its tensors are there.
    pub fn form(
        &self,
        forms: &'static [Form],
        path: &str,
        tensors: &Tensors,
    ) -> Option<&'static Form> {
        self.forms(forms, path, tensors).first().copied()
    }

    /// The forms of the experts in some layers, each once; none if no experts are there.
    pub fn forms_of_experts(&self, layers: usize, tensors: &Tensors) -> Vec<&'static Form> {
        let found = paths(layers).filter_map(|path| self.form(self.experts, &path, tensors));
        let found: Vec<&Form> = found.collect();
        let is_used = |form: &&Form| found.iter().any(|it| std::ptr::eq(*it, *form));
        self.experts.iter().filter(is_used).collect()
    }

    /// What is told of a checkpoint whose experts have these forms.
    pub fn description(&self, forms: &[&Form], tensors: &Tensors) -> String {
        let named = forms.iter().map(|form| form.name).filter(|name| !name.is_empty());
        let named: Vec<&str> = named.collect();
        let with = if named.is_empty() { "" } else { " with " };
        format!("{}{with}{}{}", self.name, named.join(" and "), tensors.wrapping)
    }

    /// The error for tensors that have the experts of no form of the layout. A config is read
    /// from `file`.
    pub fn no_experts(&self, layers: usize, tensors: &Tensors, file: &str) -> Error {
        for other in Self::ALL {
            let forms = other.forms_of_experts(layers, tensors);
            if let Some(form) = forms.first() {
                let mut found = paths(layers).map(|it| other.first_tensor(form, &it, tensors));
                let example = found.find_map(|name| Some(&*tensors.get(&name)?.name));
                return err!(
                    "`{file}` is a config of {}, and the tensors in `{}` have the names of {}, such as `{}`: use the config.json that was saved with them; a released repository has OpenAI's config and tensors in its folder `original`, and Hugging Face's in its root",
                    self.name,
                    tensors.path.display(),
                    other.name,
                    example.unwrap_or_default()
                );
            }
        }
        let outside = ["embedding.weight", "norm.scale", "lm_head.weight"];
        let outside = outside.map(|it| self.sources(it, &[], tensors).first());
        let usual = &self.experts[0];
        let expected = self.first_tensor(usual, "layers.0.mlp.experts.gate_up", tensors);
        problems::no_experts(tensors, &outside, &expected)
    }

    /// The forms of a matrix whose tensors are there, but for ignored ones, and those that only the
    /// index has, if there are others.
    fn forms(&self, forms: &'static [Form], path: &str, tensors: &Tensors) -> Vec<&'static Form> {
        let is_there = |form: &&Form| {
            let name = self.first_tensor(form, path, tensors);
            let last = tensors.shape(&name).and_then(<[u64]>::last);
            // The codes of both kinds of integers have one name.
            match form.format {
                MatrixFormat::Int(bits) => last == Some(&bits.block_bytes()),
                _ => tensors.has(&name),
            }
        };
        let is_wanted = |form: &&Form| {
            let tensor = tensors.get(&self.first_tensor(form, path, tensors));
            tensor.is_some_and(|it| !tensors.is_ignored(&it.name))
        };
        let all: Vec<&Form> = forms.iter().filter(is_there).collect();
        let wanted: Vec<&Form> = all.iter().copied().filter(is_wanted).collect();
        if wanted.is_empty() { all } else { wanted }
    }

    fn first_tensor(&self, form: &Form, path: &str, tensors: &Tensors) -> String {
        let part = form.format.parts(&[], [0; 2])[0].name;
        self.sources(&format!("{path}.{part}"), form.names, tensors).first()
    }

    /// The stored names of a matrix in a form, and of its bias.
    fn stored<'t>(&self, form: &Form, path: &str, tensors: &'t Tensors) -> Vec<&'t str> {
        let parts = form.format.parts(&[], [0; 2]).into_iter().map(|part| part.name);
        let names = parts.chain(["bias"]).flat_map(|part| {
            let sources = self.sources(&format!("{path}.{part}"), form.names, tensors);
            sources.tensors(tensors.count() as u64).collect::<Vec<_>>()
        });
        names.filter_map(|name| Some(&*tensors.get(&name)?.name)).collect()
    }

    /// Refuses matrices of experts that are there in several forms: these may differ.
    pub fn refuse_ambiguous(&self, layers: usize, tensors: &Tensors) -> Result<()> {
        // The stored names of such matrices, by their forms.
        let mut doubled = BTreeMap::<&str, Vec<&str>>::new();
        let mut count = 0;
        for path in paths(layers) {
            let is_stored =
                |form: &&Form| tensors.get(&self.first_tensor(form, &path, tensors)).is_some();
            let forms = self.forms(self.experts, &path, tensors).into_iter().filter(is_stored);
            let stored = forms.map(|form| (form.name, self.stored(form, &path, tensors)));
            let stored: Vec<_> = stored.collect();
            if stored.len() < 2 {
                continue;
            }
            count += 1;
            // Several forms may have the same bias.
            let is_own = |name: &&&str| {
                stored.iter().filter(|(_, names)| names.contains(*name)).count() == 1
            };
            for (form, names) in &stored {
                doubled.entry(form).or_default().extend(names.iter().filter(is_own));
            }
        }
        if count == 0 {
            return Ok(());
        }
        let examples: Vec<&str> = doubled.values().map(|names| names[0]).collect();
        let error = err!(
            "`{}` holds {count} of the matrices of experts in several forms, such as {}, and these may differ: ignore all forms but one",
            tensors.path.display(),
            listed(examples.iter())
        );
        Err(doubled.keys().fold(error, |error, kept| {
            let others = doubled.iter().filter(|(form, _)| *form != kept);
            let names: Vec<&str> = others.flat_map(|(_, names)| names).copied().collect();
            tensors.ignoring(error, &names)
        }))
    }
}

fn paths(layers: usize) -> impl Iterator<Item = String> {
    (0..layers).flat_map(|n| MATRICES.map(|matrix| format!("layers.{n}.mlp.experts.{matrix}")))
}
