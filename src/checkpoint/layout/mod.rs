//! Checkpoint layouts: under which names and formats a layout stores the canonical weights,
//! and how its tensors become them.

mod assemble;
mod forms;
mod known;
mod sizes;
mod sources;
mod wrong;

pub use assemble::Assembly;
pub use wrong::Wrong;

use super::config::Config;
use super::tensors::Tensors;
use super::weights::LM_HEAD;
use crate::error::{Result, bail, ensure};
use crate::tensor::DType;
use crate::tensor::mxfp4::BLOCK;
use crate::weights::MatrixFormat;

/// Where a layout stores the canonical weights.
#[derive(Clone, Copy)]
pub struct Layout {
    /// For people.
    pub name: &'static str,
    /// The prefix of a layer's number, in place of `layers.`.
    pub layer: &'static str,
    /// Names that do not depend on the form of a matrix.
    pub names: Names,
    /// Whether q, k and v are matrices of their own.
    pub separate_qkv: bool,
    /// Whether a stored lm_head counts even if the config ties it to the embedding.
    pub unties: bool,
    /// The forms of attention and lm_head, the usual one first.
    pub dense: &'static [Form],
    /// The forms of the experts' matrices. The names that are there tell which one a matrix
    /// has.
    pub experts: &'static [Form],
}

/// A way of storing a matrix.
pub struct Form {
    /// What experts in it are called, unless that goes without saying.
    pub name: &'static str,
    /// Floats may have another dtype.
    pub format: MatrixFormat,
    /// Names that only this form has.
    pub names: Names,
}

/// Canonical names, or their first parts, and the layout's in their place; inside a layer without
/// `layers.N.`. `E` is the number of an expert, each of which has a tensor. Of two names the rows
/// alternate.
pub type Names = &'static [(&'static str, &'static str)];

/// Floats `[out, in]`, of the dtype that checkpoints usually have.
pub const PLAIN: MatrixFormat = MatrixFormat::Float(DType::BF16);
/// The form of matrices that a layout stores as floats alone.
const FLOATS: Form = Form { name: "", format: PLAIN, names: &[] };
/// Floats `[in, out]`.
pub const TRANSPOSED: MatrixFormat = MatrixFormat::FloatTransposed(DType::BF16);

impl Layout {
    /// The config, completed by what the tensors say, and checked against the formats.
    pub fn resolve_config(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let config = self.with_router_counts(config, tensors, file)?;
        config.check(file)?;
        let has_blocks = |forms, path: &str| {
            let form = self.form(forms, path, tensors);
            form.is_some_and(|form| form.format.has_blocks())
        };
        let in_layers = |forms, name: &str| {
            (0..config.num_layers()).any(|n| has_blocks(forms, &format!("layers.{n}.{name}")))
        };
        let out = in_layers(self.dense, "attn.out");
        let gate_up = in_layers(self.experts, "mlp.experts.gate_up");
        let any = out || gate_up || has_blocks(self.dense, LM_HEAD);
        let width = config.num_heads * config.head_dim;
        for (has_blocks, name, size) in [
            (any, "`hidden_size`", config.hidden_size),
            (
                in_layers(self.experts, "mlp.experts.down"),
                "`intermediate_size`",
                config.intermediate_size,
            ),
            (out, "`num_attention_heads` times `head_dim`", width),
        ] {
            ensure!(
                !has_blocks || size.is_multiple_of(BLOCK),
                "`{file}`: {name} must be a multiple of {BLOCK}, the block size, found {size}: write the size that was saved with the weights"
            );
        }
        Ok(config)
    }

    /// The config of a model whose layers have different numbers of experts, after pruning:
    /// each router has a row for each expert. A config with one number for all layers may be what
    /// it was before pruning. If the routers agree with each other, the config must agree with them.
    fn with_router_counts(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let router = |layer| self.router(&format!("layers.{layer}.mlp"), tensors);
        let rows = |layer| tensors.shape(&router(layer))?.first().copied();
        let differ = config.experts.iter().any(|count| *count != config.experts[0]);
        for (layer, expected) in config.experts.iter().enumerate().filter(|_| differ) {
            let found = rows(layer).unwrap_or(*expected);
            ensure!(
                found == *expected,
                "`{file}` gives layer {layer} {expected} experts, and `{}` has a row for each of {found}: use the config of this checkpoint",
                router(layer)
            );
        }
        let rows = (0..config.num_layers()).map(rows).collect::<Option<Vec<u64>>>();
        let Some(experts) = rows.filter(|rows| rows.iter().any(|count| *count != rows[0])) else {
            return Ok(config);
        };
        let used = config.experts_per_token;
        if let Some(layer) = experts.iter().position(|rows| *rows < used) {
            bail!(
                "`{}` has {} rows, one for each expert, and `{file}` uses {used} experts for each token: use a checkpoint with at least as many in each layer",
                router(layer),
                experts[layer]
            );
        }
        Ok(Config { experts, ..config })
    }

    /// The router's matrix, with a row for each expert, of the layer with this `mlp` path.
    fn router(&self, mlp: &str, tensors: &Tensors) -> String {
        self.sources(&format!("{mlp}.router.weight"), &[], tensors).first()
    }
}
