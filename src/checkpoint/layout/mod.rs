//! Checkpoint layouts: under which names a layout keeps the canonical weights,
//! and how its tensors become them. One file for each.

mod expert_linears;
mod hugging_face;
mod original;
mod split_experts;
mod staged;
mod whole_experts;

use super::assemble::{Assembly, Form, Kind, MatrixForm, Spec};
use super::config::Dialect;
use super::files::Tensors;
use super::{Config, Error, ModelWeights, Result};
use crate::tensor::DType;
use crate::weights::{Recipe, Source, Weight};

pub use staged::staged;

/// Where a layout keeps the canonical weights.
#[derive(Clone, Copy)]
pub struct Layout {
    /// For people.
    pub name: &'static str,
    /// The tensor that only this layout has.
    sign: &'static str,
    form: Form,
    /// What the weight of a canonical name is made of, when its first axis is so
    /// long: where it belongs to experts, that is how many there are.
    origin: fn(&str, u64) -> Origin,
}

/// The tensors that a weight is made of.
enum Origin {
    /// One, as it is.
    Tensor(String),
    /// One for each expert, one after the other.
    Stacked(Vec<String>),
    /// Two for each expert, whose rows alternate.
    Interleaved(Vec<[String; 2]>),
}

impl Origin {
    /// The tensor whose name is the canonical one with these parts replaced.
    fn renamed(canonical: &str, parts: &[(&str, &str)]) -> Self {
        let rename = |name: String, (ours, theirs): &(&str, &str)| name.replace(ours, theirs);
        Self::Tensor(parts.iter().fold(canonical.to_owned(), rename))
    }
}

/// The layout of a checkpoint. Hugging Face's differ in how experts are stored,
/// which their names tell.
pub fn detect(dialect: Dialect, tensors: &Tensors) -> Result<Layout> {
    if dialect == Dialect::OpenAi {
        return Ok(original::LAYOUT);
    }
    let known = [
        hugging_face::LAYOUT,
        whole_experts::LAYOUT,
        split_experts::LAYOUT,
        expert_linears::LAYOUT,
    ];
    let found = known.into_iter().find(|layout| tensors.has(layout.sign));
    found.ok_or_else(|| tensors.lacks_experts())
}

impl Layout {
    /// The config, read from `file`, with what the tensors say besides.
    pub fn settle(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let config = self.pruned(config, tensors, file)?;
        config.check(file)?;
        let experts = [
            ("`hidden_size`", config.hidden_size),
            ("`intermediate_size`", config.intermediate_size),
        ];
        let attention = [
            ("`hidden_size`", config.hidden_size),
            ("`num_attention_heads` times `head_dim`", config.num_heads * config.head_dim),
        ];
        let logits = [("`hidden_size`", config.hidden_size)];
        let Form { experts: as_experts, attention: as_attention, logits: as_logits, .. } =
            self.form;
        for (form, sizes) in [
            (Some(as_experts), &experts[..]),
            (Some(as_attention), &attention),
            (as_logits, &logits),
        ] {
            if form.is_some_and(MatrixForm::has_blocks) {
                config.check_blocks(file, sizes)?;
            }
        }
        Ok(config)
    }

    /// The config of a model whose layers have different numbers of experts, after
    /// some were pruned. No config can say that; the routers do, one row an expert.
    /// Where they agree with each other, the config has to agree with them.
    fn pruned(&self, config: Config, tensors: &Tensors, file: &str) -> Result<Config> {
        let router = |layer| self.router(&format!("layers.{layer}.mlp"));
        let rows = |layer| tensors.shape(&router(layer))?.first().copied();
        let rows = (0..config.num_layers()).map(rows).collect::<Option<Vec<u64>>>();
        let Some(experts) = rows.filter(|rows| rows.iter().any(|count| *count != rows[0])) else {
            return Ok(config);
        };
        let used = config.experts_per_token;
        match experts.iter().position(|rows| *rows < used) {
            Some(layer) => {
                let (tensor, rows) = (router(layer), experts[layer]);
                Err(Error::FewExperts { tensor, rows, used, file: file.to_owned() })
            }
            None => Ok(Config { experts, ..config }),
        }
    }

    /// The tensor with a row for each expert of the layer whose `mlp` this path is.
    fn router(&self, mlp: &str) -> String {
        match (self.origin)(&format!("{mlp}.router.weight"), 0) {
            Origin::Tensor(name) => name,
            _ => unreachable!("a router is one tensor in every layout"),
        }
    }

    /// Who says how long the first axis of a weight is: the config, or where layers
    /// have different numbers of experts, the router.
    fn first_axis_by(&self, config: &Config, name: &str) -> String {
        let mlp = name.split_once(".experts.").or_else(|| name.split_once(".router."));
        match mlp.filter(|_| config.experts.iter().any(|count| *count != config.experts[0])) {
            Some((mlp, _)) => format!("the rows of `{}`", self.router(mlp)),
            None => BY_CONFIG.to_owned(),
        }
    }

    /// Takes every weight of a model of this config, dtype and shape checked.
    pub fn weights(&self, config: &Config, tensors: &mut Tensors) -> Result<ModelWeights> {
        let mut find = |spec: Spec| {
            let (dtype, recipe) = match (self.origin)(&spec.name, spec.shape[0]) {
                Origin::Tensor(name) => {
                    let by = self.first_axis_by(config, &spec.name);
                    let (dtype, source) = take(tensors, &name, spec.kind, &spec.shape, &by)?;
                    (dtype, Recipe::Bytes(source))
                }
                Origin::Stacked(names) => {
                    let (dtype, sources) =
                        take_alike(tensors, &names, spec.kind, &spec.shape[1..])?;
                    (dtype, Recipe::Stacked(sources))
                }
                Origin::Interleaved(pairs) => {
                    let mut half = spec.shape[1..].to_vec();
                    half[0] /= 2;
                    let (dtype, sources) =
                        take_alike(tensors, pairs.as_flattened(), spec.kind, &half)?;
                    let row = dtype.size() * half[1..].iter().product::<u64>();
                    (dtype, Recipe::Interleaved { pairs: in_pairs(sources), row })
                }
            };
            Ok(Weight { name: spec.name, dtype, shape: spec.shape, recipe })
        };
        Assembly { config, form: self.form, find: &mut find }.model()
    }
}

/// Whose word most shapes are.
const BY_CONFIG: &str = "the config";

/// One tensor, checked. Its first axis is so long by what `first_by` names.
fn take(
    tensors: &mut Tensors,
    name: &str,
    kind: Kind,
    shape: &[u64],
    first_by: &str,
) -> Result<(DType, Source)> {
    let (file, entry) = tensors.take(name)?;
    let (path, tensor) = (file.to_path_buf(), entry.name);
    if !kind.accepts(entry.dtype) {
        let (expected, found) = (kind.describe(), entry.dtype);
        return Err(Error::WrongDtype { file: path, tensor, expected, found });
    }
    if shape != entry.shape {
        let (expected, found) = (shape.to_vec(), entry.shape);
        let by = if expected.first() == found.first() { BY_CONFIG } else { first_by }.to_owned();
        return Err(Error::WrongShape { file: path, tensor, expected, by, found });
    }
    Ok((entry.dtype, Source { file, range: entry.range }))
}

/// Several tensors of one shape, which must have one dtype.
fn take_alike(
    tensors: &mut Tensors,
    names: &[String],
    kind: Kind,
    shape: &[u64],
) -> Result<(DType, Vec<Source>)> {
    let mut sources = Vec::with_capacity(names.len());
    let mut first = None;
    for name in names {
        let (dtype, source) = take(tensors, name, kind, shape, BY_CONFIG)?;
        let expected = *first.get_or_insert(dtype);
        if dtype != expected {
            let (file, tensor) = (source.file.to_path_buf(), name.clone());
            let expected = "of one dtype with those of the other experts";
            return Err(Error::WrongDtype { file, tensor, expected, found: dtype });
        }
        sources.push(source);
    }
    Ok((first.expect("a model has experts"), sources))
}

fn in_pairs(sources: Vec<Source>) -> Vec<[Source; 2]> {
    let mut sources = sources.into_iter();
    std::iter::from_fn(|| Some([sources.next()?, sources.next()?])).collect()
}

/// How checkpoints store matrices that are not of experts: as numbers, and without
/// one for the logits where the config says that the embedding serves.
const fn form(separate_qkv: bool, experts: MatrixForm) -> Form {
    Form { separate_qkv, experts, attention: MatrixForm::OutputMajor, logits: None }
}

impl Kind {
    fn accepts(self, dtype: DType) -> bool {
        match self {
            Kind::Dense => matches!(dtype, DType::BF16 | DType::F16 | DType::F32),
            Kind::Expert => Kind::Dense.accepts(dtype) || dtype == DType::F8E5M2,
            Kind::Blocks => dtype == DType::U8,
            Kind::Scales => matches!(dtype, DType::U8 | DType::F8E8M0),
            Kind::Codes => dtype == DType::U8,
            Kind::CodeScales => dtype == DType::F32,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Kind::Dense => "bf16, f16 or f32",
            Kind::Expert => "bf16, f16, f32 or f8e5m2",
            Kind::Blocks => "u8 (MXFP4 blocks)",
            Kind::Scales => "u8 (MXFP4 scales)",
            Kind::Codes => "u8 (integers)",
            Kind::CodeScales => "f32 (scales of integers)",
        }
    }
}
