//! Checkpoint layouts: under which names and formats a layout stores the canonical weights,
//! and how its tensors become them.

mod assemble;
pub mod known;

pub use assemble::Assembly;

use crate::checkpoint::config::Config;
use crate::checkpoint::shards::Tensors;
use crate::error::{Result, bail, ensure};
use crate::tensor::DType;
use crate::tensor::mxfp4::BLOCK;
use crate::weights::MatrixFormat;

/// Where a layout stores the canonical weights. Floats may have another dtype than the
/// formats say.
#[derive(Clone, Copy)]
pub struct Layout {
    pub name: &'static str,
    /// Whether q, k and v are matrices of their own.
    pub separate_qkv: bool,
    pub experts: MatrixFormat,
    pub attention: MatrixFormat,
    /// `None` if the config decides whether the embedding is tied.
    pub lm_head: Option<MatrixFormat>,
    /// The tensors of a canonical weight whose first axis has this length: for a weight of
    /// experts, their number.
    pub sources: fn(&str, u64) -> Sources,
}

/// Floats `[out, in]`, of the dtype that checkpoints usually have.
pub const PLAIN: MatrixFormat = MatrixFormat::Float(DType::BF16);
/// Floats `[in, out]`.
pub const TRANSPOSED: MatrixFormat = MatrixFormat::FloatTransposed(DType::BF16);

pub enum Sources {
    Tensor(String),
    /// One for each expert, one after the other.
    Concat(Vec<String>),
    /// Two for each expert, whose rows alternate.
    InterleaveRows(Vec<[String; 2]>),
}

pub struct Names {
    /// The prefix of a layer's number, in place of `layers.`.
    pub layer: &'static str,
    /// Names, or their first components; inside a layer without `layers.N.`. The first that
    /// fits counts.
    pub table: &'static [(&'static str, &'static str)],
}

impl Names {
    pub fn source(&self, canonical: &str) -> Sources {
        let in_layer = canonical.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let (prefix, name) = match in_layer {
            Some((n, name)) => (format!("{}{n}.", self.layer), name),
            None => (String::new(), canonical),
        };
        let renamed = self.table.iter().find_map(|(ours, theirs)| {
            let rest = name.strip_prefix(ours)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{prefix}{theirs}{rest}"))
        });
        let missing = || panic!("the layout has no name for `{canonical}`");
        Sources::Tensor(renamed.unwrap_or_else(missing))
    }
}

impl Layout {
    /// The config, completed by what the tensors say, and checked against the formats.
    pub fn resolve_config(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let config = self.with_router_counts(config, tensors, file)?;
        config.check(file)?;
        let [experts, attention] = [self.experts, self.attention].map(MatrixFormat::has_blocks);
        let any = experts || attention || self.lm_head.is_some_and(MatrixFormat::has_blocks);
        let width = config.num_heads * config.head_dim;
        for (has_blocks, name, size) in [
            (any, "`hidden_size`", config.hidden_size),
            (experts, "`intermediate_size`", config.intermediate_size),
            (attention, "`num_attention_heads` times `head_dim`", width),
        ] {
            ensure!(
                !has_blocks || size.is_multiple_of(BLOCK),
                "`{file}`: {name} must be a multiple of {BLOCK}, the block size, found {size}"
            );
        }
        Ok(config)
    }

    /// The config of a model whose layers have different numbers of experts, after pruning:
    /// no config can say that, but each router has a row for each expert. If the routers
    /// agree with each other, the config must agree with them.
    fn with_router_counts(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let router = |layer| self.router(&format!("layers.{layer}.mlp"));
        let rows = |layer| tensors.shape(&router(layer))?.first().copied();
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
    pub fn router(&self, mlp: &str) -> String {
        let Sources::Tensor(name) = (self.sources)(&format!("{mlp}.router.weight"), 0) else {
            unreachable!("a router is one tensor in every layout");
        };
        name
    }
}
