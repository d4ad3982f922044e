//! An adapter's file for ONNX Runtime, whoever wrote it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tensors::{Filter, ListedTensor, Selection};
use crate::adapter::AdaptedModules;
use crate::display::{Table, plural, size};
use crate::error::Result;
use crate::files::{FileRange, lossy_path};
use crate::onnx::{self, AdapterHead};
use crate::weights::Slot;

/// What a `.onnx_adapter` file is.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct OnnxAdapterInspection {
    #[serde(serialize_with = "lossy_path")]
    pub path: PathBuf,
    pub format_version: i32,
    /// Numbers that whoever wrote the file gave the adapter and its model.
    pub adapter_version: i32,
    pub model_version: i32,
    /// Of all parameters.
    pub bytes: u64,
    pub count: usize,
    /// The matrices of which it has both factors, by the names that models of this program have
    /// for them.
    pub modules: Vec<AdaptedModules>,
    pub tensors: Selection,
}

pub fn inspect(path: &Path, filter: &Filter) -> Result<OnnxAdapterInspection> {
    let AdapterHead { format_version, adapter_version, model_version, parameters } =
        onnx::read_adapter(path)?;
    let shapes = parameters.iter().map(|(it, _)| (&*it.name, &*it.shape));
    let rank = |(matrix, [a, _]): (&str, [&[u64]; 2])| match a {
        [.., rank, _] => Some((matrix.to_owned(), Some(*rank))),
        _ => None,
    };
    let ranks: Vec<_> = Slot::paired(shapes).into_iter().filter_map(rank).collect();
    let count = parameters.len();
    let bytes = parameters.iter().map(|(_, data)| data.end - data.start).sum();
    let listed = parameters.into_iter().map(|(parameter, range)| ListedTensor {
        dtype: onnx::dtype_name(parameter.dtype),
        name: parameter.name,
        shape: parameter.shape,
        places: vec![FileRange { file: path.into(), range }],
        ..ListedTensor::default()
    });
    Ok(OnnxAdapterInspection {
        path: path.to_owned(),
        format_version,
        adapter_version,
        model_version,
        bytes,
        count,
        modules: AdaptedModules::grouped(ranks.iter().map(|(path, rank)| (&**path, *rank))),
        tensors: filter.apply(listed.collect()),
    })
}

impl OnnxAdapterInspection {
    pub(super) fn describe(&self, table: &mut Table) {
        let Self { path, format_version, adapter_version, model_version, bytes, count, .. } = self;
        let (bytes, count) = (size(*bytes), plural(*count, "tensor"));
        table.row("adapter", format!("{} for ONNX Runtime: {bytes}, {count}", path.display()));
        table.row(
            "versions",
            format!("format {format_version}, adapter {adapter_version}, model {model_version}"),
        );
        if !self.modules.is_empty() {
            table.row("changes", plural(self.modules.len(), "module"));
            self.modules.iter().for_each(|module| table.note(module));
        }
    }
}
