//! The form of each matrix, which the names of its tensors decide. Shapes cannot: square matrices
//! have the same in both orders.

use std::collections::BTreeSet;

use super::{Form, Layout};
use crate::checkpoint::names::patterns;
use crate::checkpoint::problems;
use crate::checkpoint::tensors::Tensors;
use crate::error::{Error, Result, Setting, err};
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
        let paths: Vec<String> = paths(layers).collect();
        let is_used = |form: &&Form| {
            let mut found = paths.iter().filter_map(|it| self.form(self.experts, it, tensors));
            found.any(|it| std::ptr::eq(it, *form))
        };
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
        problems::no_experts(tensors, &outside)
    }

    /// The forms of a matrix whose tensors are there, but for ignored ones if there are others.
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
        let is_ignored = |form: &&Form| {
            let tensor = tensors.get(&self.first_tensor(form, path, tensors));
            tensor.is_some_and(|it| tensors.is_ignored(&it.name))
        };
        let all: Vec<&Form> = forms.iter().filter(is_there).collect();
        let wanted: Vec<&Form> = all.iter().copied().filter(|form| !is_ignored(form)).collect();
        if wanted.is_empty() { all } else { wanted }
    }

    fn first_tensor(&self, form: &Form, path: &str, tensors: &Tensors) -> String {
        let part = form.format.parts(&[], [0; 2])[0].name;
        self.sources(&format!("{path}.{part}"), form.names, tensors).first()
    }

    /// Refuses experts of which some are there in several forms: they may differ.
    pub fn refuse_ambiguous(&self, layers: usize, tensors: &Tensors) -> Result<()> {
        let forms = |path: &String| self.forms(self.experts, path, tensors);
        let doubled: Vec<String> = paths(layers).filter(|path| forms(path).len() > 1).collect();
        let Some(first) = doubled.first() else { return Ok(()) };
        let stored = |form: &Form, path: &String| {
            let parts = form.format.parts(&[], [0; 2]).into_iter();
            let names = parts
                .map(|part| self.sources(&format!("{path}.{}", part.name), form.names, tensors));
            let names = names.flat_map(|it| it.tensors(tensors.count() as u64).collect::<Vec<_>>());
            let stored = names.filter_map(|name| Some(&*tensors.get(&name)?.name));
            stored.collect::<Vec<&str>>()
        };
        let examples = forms(first)
            .iter()
            .filter_map(|it| stored(it, first).first().copied())
            .map(|it| format!("`{it}`"))
            .collect::<Vec<_>>()
            .join(" and ");
        let error = err!(
            "`{}` holds the same experts in several forms, such as {examples}, and they may differ: ignore all but one",
            tensors.path.display()
        );
        let all: BTreeSet<_> = doubled.iter().flat_map(forms).map(|it| it.name).collect();
        Err(all.into_iter().fold(error, |error, kept| {
            let of_form = |is_kept: bool| {
                let pairs = doubled
                    .iter()
                    .flat_map(|path| forms(path).into_iter().map(move |it| (it, path)));
                let chosen = pairs.filter(move |(it, _)| (it.name == kept) == is_kept);
                chosen.flat_map(|(it, path)| stored(it, path)).collect::<Vec<_>>()
            };
            let patterns = patterns(&of_form(false), of_form(true)).into_iter();
            error.with_remedies(patterns.map(|it| (Setting::IgnoreTensor, it)).collect())
        }))
    }
}

fn paths(layers: usize) -> impl Iterator<Item = String> {
    (0..layers).flat_map(|n| MATRICES.map(|matrix| format!("layers.{n}.mlp.experts.{matrix}")))
}
