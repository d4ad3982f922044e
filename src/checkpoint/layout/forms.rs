//! The form of each matrix, which the names of its tensors decide. Shapes cannot: square matrices
//! have the same in both orders.

use std::collections::BTreeMap;

use super::{Form, Layout};
use crate::checkpoint::tensors::Tensors;
use crate::display::listed;
use crate::error::{Result, bail, err};
use crate::tensor::DType;
use crate::weights::MatrixFormat;

/// The matrices of a layer's experts.
const MATRICES: [&str; 2] = ["gate_up", "down"];

impl Layout {
    /// The form of a matrix, if it has tensors.
    pub fn form(
        &self,
        forms: &'static [Form],
        path: &str,
        tensors: &Tensors,
    ) -> Option<&'static Form> {
        self.forms(forms, path, tensors).first().copied()
    }

    /// The forms of the experts in some layers, each once; none without experts.
    pub fn forms_of_experts(&self, layers: usize, tensors: &Tensors) -> Vec<&'static Form> {
        let found = paths(layers).filter_map(|path| self.form(self.experts, &path, tensors));
        let found: Vec<&Form> = found.collect();
        let is_used = |form: &&Form| found.iter().any(|it| std::ptr::eq(*it, *form));
        self.experts.iter().filter(is_used).collect()
    }

    /// The layout with experts in these forms, for people.
    pub fn with_forms(&self, forms: &[&Form]) -> String {
        let named = forms.iter().map(|form| form.name).filter(|name| !name.is_empty());
        let named: Vec<&str> = named.collect();
        let with = if named.is_empty() { "" } else { " with " };
        format!("{}{with}{}", self.name, named.join(" and "))
    }

    /// The form that experts without known tensors should have: packed ones are MXFP4.
    pub fn expected_form(&self, tensors: &Tensors) -> &'static Form {
        let has_blocks = tensors.map.values().any(|it| it.dtype == DType::U8);
        let form = self.experts.iter().find(|form| form.format.has_blocks() == has_blocks);
        form.unwrap_or(&self.experts[0])
    }

    /// Refuses tensors that have the experts of another layout. A config is read from `file`.
    pub fn refuse_other(&self, layers: usize, tensors: &Tensors, file: &str) -> Result<()> {
        for other in Self::ALL {
            let forms = other.forms_of_experts(layers, tensors);
            let Some(form) = forms.first() else { continue };
            let mut found = paths(layers).map(|it| other.first_tensor(form, &it, tensors));
            let example = found.find_map(|name| Some(&*tensors.get(&name)?.name));
            bail!(
                "`{file}` is a config of {}, and the tensors in `{}` have the names of {}, such as `{}`: use the config.json that was saved with them (released repositories have OpenAI's in the folder `original`, Hugging Face's in the root)",
                self.name,
                tensors.path.display(),
                other.name,
                example.unwrap_or_default()
            );
        }
        Ok(())
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

    /// The stored names of a matrix in a form, and of its bias; `None` if the matrix has another form.
    fn stored<'t>(&self, form: &Form, path: &str, tensors: &'t Tensors) -> Option<Vec<&'t str>> {
        tensors.get(&self.first_tensor(form, path, tensors))?;
        let parts = form.format.parts(&[], [0; 2]).into_iter().map(|part| part.name);
        let names = parts.chain(["bias"]).flat_map(|part| {
            let sources = self.sources(&format!("{path}.{part}"), form.names, tensors);
            sources.tensors(tensors.count() as u64).collect::<Vec<_>>()
        });
        Some(names.filter_map(|name| Some(&*tensors.get(&name)?.name)).collect())
    }

    /// Refuses matrices of experts that are stored in several forms: these may differ.
    pub fn refuse_ambiguous(&self, layers: usize, tensors: &Tensors) -> Result<()> {
        // The stored names of such matrices, by their forms.
        let mut doubled = BTreeMap::<&str, Vec<&str>>::new();
        let mut count = 0;
        for path in paths(layers) {
            let forms = self.forms(self.experts, &path, tensors).into_iter();
            let stored = |form: &Form| Some((form.name, self.stored(form, &path, tensors)?));
            let stored: Vec<_> = forms.filter_map(stored).collect();
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
            tensors.ignoring(error, others.flat_map(|(_, names)| names).copied())
        }))
    }
}

fn paths(layers: usize) -> impl Iterator<Item = String> {
    (0..layers).flat_map(|n| MATRICES.map(|matrix| format!("layers.{n}.mlp.experts.{matrix}")))
}
