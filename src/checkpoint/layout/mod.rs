//! Checkpoint layouts: under which names a layout keeps the canonical weights,
//! and how its tensors become them. One file for each.

mod original;

use super::files::Tensors;
use super::weights::Kind;
use super::{Config, Error, ModelWeights, Result};
use crate::tensor::DType;
use crate::weights::{Recipe, Source, Weight};

pub use original::ORIGINAL;

/// A layout whose tensors are the canonical weights under other names.
pub struct Layout {
    /// For people.
    pub name: &'static str,
    /// The layout's name for a canonical one.
    rename: fn(&str) -> String,
}

/// A weights file that we wrote: canonical names.
pub const STAGED: Layout =
    Layout { name: "a weights file of gpt-oss-export", rename: str::to_owned };

impl Layout {
    /// Takes every weight of a model of this config, dtype and shape checked.
    pub fn weights(&self, config: &Config, tensors: &mut Tensors) -> Result<ModelWeights> {
        ModelWeights::assemble(config, &mut |spec| {
            let tensor = (self.rename)(&spec.name);
            let (file, entry) = tensors.take(&tensor)?;
            if !spec.kind.accepts(entry.dtype) {
                let (file, expected) = (file.to_path_buf(), spec.kind.describe());
                return Err(Error::WrongDtype { file, tensor, expected, found: entry.dtype });
            }
            if spec.shape != entry.shape {
                let file = file.to_path_buf();
                return Err(Error::WrongShape {
                    file,
                    tensor,
                    expected: spec.shape,
                    found: entry.shape,
                });
            }
            let recipe = Recipe::Bytes(Source { file, range: entry.range });
            Ok(Weight { name: spec.name, dtype: entry.dtype, shape: spec.shape, recipe })
        })
    }
}

impl Kind {
    fn accepts(self, dtype: DType) -> bool {
        match self {
            Kind::Dense => matches!(dtype, DType::BF16 | DType::F16 | DType::F32),
            Kind::Blocks => dtype == DType::U8,
            Kind::Scales => matches!(dtype, DType::U8 | DType::F8E8M0),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Kind::Dense => "bf16, f16 or f32",
            Kind::Blocks => "u8 (MXFP4 blocks)",
            Kind::Scales => "u8 (MXFP4 scales)",
        }
    }
}
