//! An ONNX file of a model, before it is loaded: its metadata, and where its weights are.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::metadata::{ModelMetadata, WeightSlice};
use crate::error::{Error, Result, err};
use crate::files::{FileRange, parent_dir};
use crate::model::ModelPart;
use crate::onnx::{self, OnnxFile, StoredInitializer};
use crate::tensor::DType;

/// A whole model, or a stage of one.
pub struct ModelFile {
    pub path: PathBuf,
    pub onnx: OnnxFile,
    /// `None` for a model of another program.
    pub metadata: Option<ModelMetadata>,
}

/// An initializer with external data.
pub struct ExternalTensor<'m> {
    pub stored: &'m StoredInitializer,
    /// Canonical name of the weight that it holds.
    pub weight: &'m str,
    /// The bytes of the weight that it holds; `None` for all.
    pub slice: Option<&'m Range<u64>>,
    pub data: FileRange,
}

impl ExternalTensor<'_> {
    /// Whether it holds a weight of a dtype. Dtypes that operators do not know are bytes to them.
    pub fn reads_as(&self, expected: DType) -> bool {
        let stored = self.stored.dtype;
        match expected {
            DType::U8 | DType::F8E8M0 | DType::F8E4M3 | DType::F8E5M2 => {
                stored.is_none_or(|dtype| dtype.size() == 1)
            }
            dtype => stored == Some(dtype),
        }
    }
}

impl ModelFile {
    pub fn read(path: &Path) -> Result<Self> {
        let onnx = onnx::read(path)?;
        let metadata = ModelMetadata::read(&onnx.properties)
            .map_err(|error| err!("`{}`: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), onnx, metadata })
    }

    /// Which stage it is; `None` for a whole model.
    pub fn stage(&self) -> Option<&ModelPart> {
        self.metadata.as_ref()?.stage.as_ref()
    }

    /// The files of its data that are no longer those of the export, each as a phrase that says
    /// what to do.
    pub fn changed_data(&self) -> impl Iterator<Item = String> {
        let recorded = self.metadata.iter().map(|it| &it.data);
        recorded.flat_map(|recorded| {
            self.onnx.external_files().into_iter().filter_map(|(file, ranges)| {
                let path = parent_dir(&self.path).join(&file);
                let change = onnx::data_change(&path, &ranges, recorded.get(&file)?)?;
                Some(format!("its data `{file}`: {change}"))
            })
        })
    }

    /// Weights whose bytes are in the file itself, where programs store them that save a model anew.
    pub fn inline_weights(&self) -> impl Iterator<Item = &str> {
        let inline = self.onnx.initializers.iter().filter(|it| it.external.is_none());
        inline.map(|stored| self.slice(stored).map_or(&*stored.name, |slice| &slice.weight))
    }

    fn slice(&self, stored: &StoredInitializer) -> Option<&WeightSlice> {
        self.metadata.as_ref()?.slices.get(&stored.name)
    }

    /// Initializers with external data, whose paths include the file's folder.
    pub fn tensors(&self) -> impl Iterator<Item = ExternalTensor<'_>> {
        self.onnx.external_data().map(|(stored, external)| {
            let slice = self.slice(stored);
            let file = parent_dir(&self.path).join(&external.file).into();
            ExternalTensor {
                stored,
                weight: slice.map_or(&stored.name, |slice| &slice.weight),
                slice: slice.map(|slice| &slice.bytes),
                data: FileRange { file, range: external.range.clone() },
            }
        })
    }
}

/// The error of a model that is not like ours.
pub fn unexpected(path: &Path, what: impl std::fmt::Display) -> Error {
    err!(
        "`{}` has {what}, so gpt-oss-export did not write it as it is: export again",
        path.display()
    )
}
