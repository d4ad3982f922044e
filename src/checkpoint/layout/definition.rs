//! What a layout is: where it stores the canonical weights, and how they are taken from it.

use crate::checkpoint::assemble::Assembly;
pub use crate::checkpoint::assemble::{PLAIN, Storage, TRANSPOSED};
use crate::checkpoint::config::Config;
use crate::checkpoint::shards::Tensors;
use crate::checkpoint::weights::ModelWeights;
use crate::container::StoredTensor;
use crate::error::{Result, bail, ensure};
use crate::files::FileRange;
use crate::tensor::{DType, mxfp4};
use crate::weights::{ElementKind, MatrixFormat, Recipe, Weight};

/// Where a layout stores the canonical weights.
#[derive(Clone, Copy)]
pub struct Layout {
    pub name: &'static str,
    /// A tensor that only this layout has.
    pub marker_tensor: &'static str,
    pub storage: Storage,
    /// The tensors of a canonical weight whose first axis has this length: for a weight of
    /// experts, their number.
    pub sources: fn(&str, u64) -> Sources,
}

pub enum Sources {
    Tensor(String),
    /// One for each expert, one after the other.
    Concat(Vec<String>),
    /// Two for each expert, whose rows alternate.
    InterleaveRows(Vec<[String; 2]>),
}

pub struct Names {
    /// What a layer's number follows, in place of `layers.`.
    pub layer: &'static str,
    /// Names, or their first components; inside a layer without `layers.N.`. The first that
    /// fits counts.
    pub table: &'static [(&'static str, &'static str)],
}

impl Names {
    pub fn source(&self, canonical: &str) -> Sources {
        let in_layer = canonical.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let name = in_layer.map_or(canonical, |(_, name)| name);
        let renamed = self.table.iter().find_map(|(ours, theirs)| {
            let rest = name.strip_prefix(ours)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{theirs}{rest}"))
        });
        let renamed = renamed.unwrap_or_else(|| panic!("the layout has no name for `{canonical}`"));
        Sources::Tensor(match in_layer {
            Some((n, _)) => format!("{}{n}.{renamed}", self.layer),
            None => renamed,
        })
    }
}

impl Layout {
    /// The config, completed by what the tensors say, and checked against the formats.
    pub fn resolve_config(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let config = self.with_router_counts(config, tensors, file)?;
        config.check(file)?;
        let hidden = ("`hidden_size`", config.hidden_size);
        let inner = ("`intermediate_size`", config.intermediate_size);
        let heads = ("`num_attention_heads` times `head_dim`", config.num_heads * config.head_dim);
        let Storage { experts, attention, lm_head, .. } = self.storage;
        for (format, sizes) in [
            (Some(experts), &[hidden, inner][..]),
            (Some(attention), &[hidden, heads]),
            (lm_head, &[hidden]),
        ] {
            for (name, size) in
                sizes.iter().filter(|_| format.is_some_and(|it| it.is_mxfp4() || it.is_int()))
            {
                ensure!(
                    size.is_multiple_of(mxfp4::BLOCK),
                    "`{file}`: {name} must be a multiple of {}, the block size, found {size}",
                    mxfp4::BLOCK
                );
            }
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
    fn router(&self, mlp: &str) -> String {
        match (self.sources)(&format!("{mlp}.router.weight"), 0) {
            Sources::Tensor(name) => name,
            _ => unreachable!("a router is one tensor in every layout"),
        }
    }

    /// What decides the length of a weight's first axis: the config, or if layers have
    /// different numbers of experts, the router.
    fn first_axis_by(&self, config: &Config, name: &str) -> String {
        let mlp = name.split_once(".experts.").or_else(|| name.split_once(".router."));
        match mlp.filter(|_| config.experts.iter().any(|count| *count != config.experts[0])) {
            Some((mlp, _)) => format!("the rows of `{}`", self.router(mlp)),
            None => BY_CONFIG.to_owned(),
        }
    }

    pub fn weights(&self, config: &Config, tensors: &mut Tensors) -> Result<ModelWeights> {
        let mut find = |name: String, kind, shape: Vec<u64>| {
            let (dtype, recipe) = match (self.sources)(&name, shape[0]) {
                Sources::Tensor(tensor) => {
                    let by = self.first_axis_by(config, &name);
                    let (dtype, source) = take(tensors, &tensor, kind, &shape, &by)?;
                    (dtype, Recipe::Slice(source))
                }
                Sources::Concat(names) => {
                    let (dtype, sources) = take_alike(tensors, &names, kind, &shape[1..])?;
                    (dtype, Recipe::Concat(sources))
                }
                Sources::InterleaveRows(names) => {
                    let mut half = shape[1..].to_vec();
                    half[0] /= 2;
                    let (dtype, sources) = take_alike(tensors, names.as_flattened(), kind, &half)?;
                    let row = dtype.size() * half[1..].iter().product::<u64>();
                    let pairs = sources.as_chunks().0.to_vec();
                    (dtype, Recipe::InterleaveRows { pairs, row })
                }
            };
            Ok(Weight { name, dtype, shape, kind, recipe })
        };
        Assembly { config, storage: self.storage, find: &mut find }.model()
    }
}

/// What decides most shapes.
const BY_CONFIG: &str = "the config";

/// One tensor, checked. `first_by` names what decides the length of its first axis.
fn take(
    tensors: &mut Tensors,
    name: &str,
    kind: ElementKind,
    shape: &[u64],
    first_by: &str,
) -> Result<(DType, FileRange)> {
    let StoredTensor { name, dtype, shape: found, data } = tensors.take(name)?;
    let path = data.file.display();
    ensure!(kind.accepts(dtype), "`{path}`: tensor `{name}` must be {kind}, found {dtype}");
    let by = if shape.first() == found.first() { BY_CONFIG } else { first_by };
    ensure!(
        shape == found,
        "`{path}`: tensor `{name}` must have shape {shape:?} (from {by}), found {found:?}"
    );
    Ok((dtype, data))
}

/// Several tensors of one shape, which must have one dtype.
fn take_alike(
    tensors: &mut Tensors,
    names: &[String],
    kind: ElementKind,
    shape: &[u64],
) -> Result<(DType, Vec<FileRange>)> {
    let mut sources = Vec::with_capacity(names.len());
    let mut first = None;
    for name in names {
        let (dtype, source) = take(tensors, name, kind, shape, BY_CONFIG)?;
        let expected = *first.get_or_insert(dtype);
        ensure!(
            dtype == expected,
            "`{}`: tensor `{name}` must be {expected} as those of the other experts, found {dtype}",
            source.file.display()
        );
        sources.push(source);
    }
    Ok((first.expect("a model has experts"), sources))
}

/// Attention as floats, and lm_head stored unless the config ties it.
pub const fn storage(separate_qkv: bool, experts: MatrixFormat) -> Storage {
    Storage { separate_qkv, experts, attention: PLAIN, lm_head: None }
}
