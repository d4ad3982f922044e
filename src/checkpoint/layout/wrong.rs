//! What is wrong with tensors that are there: one error for each fault, however many have it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::suggest::LISTED;
use crate::checkpoint::tensors::place;
use crate::display::plural;
use crate::error::{Error, err};

/// Tensors by the fault that they have, and their files.
#[derive(Default)]
pub struct Wrong(BTreeMap<String, Vec<(String, Arc<Path>)>>);

impl Wrong {
    /// Adds a tensor and what it must be, what it is, and what to do.
    pub fn add(&mut self, fault: String, tensor: &str, file: &Arc<Path>) {
        self.0.entry(fault).or_default().push((tensor.to_owned(), file.clone()));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error for each of the first faults of tensors in a folder, and one for all others.
    pub fn errors(self, folder: &Path) -> Vec<Error> {
        let more = self.0.len().saturating_sub(LISTED);
        let error = |(fault, tensors): &(String, Vec<(String, Arc<Path>)>)| {
            let place = place(folder, tensors.iter().map(|(_, file)| &**file)).unwrap_or(folder);
            let which = match &tensors[..] {
                [(one, _)] => format!("tensor `{one}`"),
                several => {
                    format!("{}, such as `{}`,", plural(several.len(), "tensor"), several[0].0)
                }
            };
            err!("`{}`: {which} {fault}", place.display())
        };
        let all: Vec<_> = self.0.into_iter().collect();
        let mut errors: Vec<Error> = all.iter().take(LISTED).map(error).collect();
        if more > 0 {
            let more = plural(more, "other fault");
            errors.push(err!(
                "`{}`: tensors have {more} of dtype or shape: use a checkpoint and a config.json of one save",
                folder.display()
            ));
        }
        errors
    }
}
