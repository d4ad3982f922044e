//! An adapter's tensors against the shapes of a base.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{self, AdapterFile, Parts};
use super::names::{Module, ModuleForm, Part, Side};
use super::{Adapter, FactorOrder, Replacement};
use crate::checkpoint::{ADAPTER_CONFIG, Checkpoint, Config, ModelWeights};
use crate::container::StoredTensor;
use crate::display::plural;
use crate::error::{Result, Setting, bail, err};
use crate::files::foreign::MERGE_ADAPTER;
use crate::weights::{ElementKind, Factor, FactorAxes, LowRank, Recipe, Rows, Weight};

/// A module, or the modules of all experts, with their tensors.
type Modules<'a> = Vec<(&'a Module, &'a Parts)>;

/// Why something does not fit.
struct Misfit {
    why: String,
    /// Whether another base would do.
    is_of_base: bool,
}

impl From<String> for Misfit {
    fn from(why: String) -> Self {
        Self { why, is_of_base: false }
    }
}

impl Misfit {
    fn of_base(why: String) -> Self {
        Self { why, is_of_base: true }
    }
}

struct Fit<'a> {
    file: &'a AdapterFile,
    config: &'a Config,
    /// `None` if only the sizes of the base are known.
    weights: Option<&'a ModelWeights>,
    /// In which order factors of experts are, if anything tells.
    order: Option<FactorOrder>,
}

/// What an adapter changes in a base. All of it has to fit. Where the file does not tell the order of
/// the factors of experts, `given` does.
pub fn fit(file: &AdapterFile, base: &Checkpoint, given: Option<FactorOrder>) -> Result<Adapter> {
    fit_to(file, &base.config, Some(&base.weights), given)
}

/// [`fit`] to a base of these sizes.
pub fn fit_to(
    file: &AdapterFile,
    config: &Config,
    weights: Option<&ModelWeights>,
    given: Option<FactorOrder>,
) -> Result<Adapter> {
    let path = file.weights.display();
    let has_tokens = |module: &Module| module.layer.is_none() && module.sides[0] == Side::Vocab;
    if let Some(module) = file.modules.keys().find(|it| config.tied && has_tokens(it)) {
        bail!(
            "`{path}` adapts `{}`, and the base ties its embedding to lm_head: programs differ in whether both change; save the base with an lm_head of its own and `tie_word_embeddings` false",
            module.name
        );
    }
    let mut fit = Fit { file, config, weights, order: given };
    let mut matrices: BTreeMap<_, Modules> = BTreeMap::new();
    for (module, tensors) in &file.modules {
        matrices.entry((module.layer, &*module.path)).or_default().push((module, tensors));
    }
    let undecided = fit.decide_order();
    let mut adapter =
        Adapter { file: file.weights.clone(), replacements: Vec::new(), terms: Vec::new() };
    let misfits = matrices.values().filter_map(|modules| fit.add(modules, &mut adapter).err());
    if let [first, others @ ..] = &misfits.collect::<Vec<Misfit>>()[..] {
        let others = match others.len() {
            0 => String::new(),
            count => format!("; also unfit: {}", plural(count, "module")),
        };
        let named = file.config.base.as_ref();
        let named = named.map_or(String::new(), |base| format!(", which it calls `{base}`"));
        let advice = format!("; give the base that it was trained on{named}");
        let advice = if first.is_of_base { &*advice } else { "" };
        bail!("`{path}`: {}{others}{advice}", first.why);
    }
    undecided?;
    Ok(adapter)
}

impl Fit<'_> {
    fn sizes(&self, module: &Module) -> Vec<u64> {
        module.sides.iter().map(|side| side.size(self.config, module.layer)).collect()
    }

    fn experts(&self, module: &Module) -> u64 {
        Side::Experts.size(self.config, module.layer)
    }

    /// Adds what some modules change: one module, or that of each expert.
    fn add(&self, modules: &Modules, adapter: &mut Adapter) -> Result<(), Misfit> {
        let (module, tensors) = modules[0];
        let layers = self.config.num_layers();
        if module.layer.is_some_and(|layer| layer >= layers) {
            let why =
                format!("it adapts `{}`, and the given base has {layers} layers", module.name);
            return Err(Misfit::of_base(why));
        }
        for ((one, _), (two, _)) in modules.iter().zip(&modules[1..]) {
            let are_experts =
                [one, two].map(|it| matches!(it.form, ModuleForm::Expert(_))) == [true; 2];
            if !are_experts || one.form == two.form {
                return Err(format!(
                    "`{}` and `{}` are the same, keep one of them",
                    one.name, two.name
                )
                .into());
            }
        }
        for (part, tensor) in tensors {
            if matches!(part, Part::Weight | Part::Bias | Part::Rows) {
                adapter.replacements.push(self.replacement(module, *part, tensor)?);
            }
        }
        if tensors.contains_key(&Part::A) {
            adapter.terms.push(self.low_rank(modules)?);
        }
        Ok(())
    }

    fn replacement(
        &self,
        module: &Module,
        part: Part,
        tensor: &StoredTensor,
    ) -> Result<Replacement, Misfit> {
        let (mut shape, mut replaced, mut tokens) = (self.sizes(module), module.path.clone(), None);
        let end = match (part, module.form) {
            (Part::Bias, _) => ".bias",
            (Part::Rows, _) => ".new_rows",
            (_, ModuleForm::Vector) => "",
            _ => ".weight",
        };
        if part == Part::Bias {
            replaced += end;
            shape.truncate(1);
        }
        if part == Part::Rows {
            let listed = self.file.config.tokens(&module.name);
            let different: BTreeSet<_> = listed.iter().filter(|token| **token < shape[0]).collect();
            if listed.is_empty() || different.len() < listed.len() {
                return Err(format!(
                    "key `trainable_token_indices` of {ADAPTER_CONFIG} must list different tokens below {}, the vocabulary, for `{}`",
                    shape[0], module.name
                )
                .into());
            }
            shape[0] = listed.len() as u64;
            tokens = Some(listed.to_owned());
        }
        let is_vector = part == Part::Bias || module.form == ModuleForm::Vector;
        if is_vector && !self.has_vector(&replaced) {
            let why = format!("the given base has no bias that `{}` could replace", tensor.name);
            return Err(Misfit::of_base(why));
        }
        self.check(module, tensor, &shape)?;
        Ok(Replacement {
            replaced,
            tokens,
            weight: weight(module.path.clone() + end, &[tensor], shape),
        })
    }

    /// `W' = W + s · B · A`. In the file `lora_A` has the rank first and `lora_B` has it last;
    /// for embeddings, and by some versions of PEFT for experts, their product is `Wᵀ`, so that
    /// `lora_A` is our `B`.
    fn low_rank(&self, modules: &Modules) -> Result<LowRank, Misfit> {
        let (module, parts) = modules[0];
        let (Module { form, path, .. }, experts) = (module, self.experts(module));
        let [out, inn] = self.sizes(module)[..] else { unreachable!("a matrix has two sides") };
        let is_transposed = match form {
            ModuleForm::Wrapped(_) => self.order == Some(FactorOrder::Swapped),
            form => *form == ModuleForm::Embedding,
        };
        let [first, last] = if is_transposed { [out, inn] } else { [inn, out] };
        let rank = file::rank(*form, &parts[&Part::A].shape, Some(experts)).unwrap_or(0).max(1);
        let part = |part, sides: &[u64], name: &str| {
            let tensors = self.of_each(modules, part)?;
            let lead = |count: u64| [&[count], sides].concat();
            // In the file, and the same bytes with an axis for experts.
            let (stored, shape) = match (form, part) {
                (ModuleForm::Wrapped(_), Part::A) => (vec![experts * rank, first], lead(experts)),
                (ModuleForm::Wrapped(_), _) => {
                    (vec![last, rank * experts], vec![last, rank, experts])
                }
                (ModuleForm::Expert(_), _) => (sides.to_vec(), lead(experts)),
                // All experts share it.
                (ModuleForm::Stacked, _) if tensors[0].shape.first() == Some(&1) => {
                    (lead(1), sides.to_vec())
                }
                (ModuleForm::Stacked, _) => (lead(experts), lead(experts)),
                _ => (sides.to_vec(), sides.to_vec()),
            };
            tensors.iter().try_for_each(|tensor| self.check(module, tensor, &stored))?;
            Ok::<_, Misfit>(weight(format!("{path}.{name}"), &tensors, shape))
        };
        let names = if is_transposed { ["lora_B", "lora_A"] } else { ["lora_A", "lora_B"] };
        let has_experts_last = matches!(form, ModuleForm::Wrapped(_));
        let axes =
            if has_experts_last { FactorAxes::WidthRankExperts } else { FactorAxes::WidthRank };
        let a = Factor {
            weight: part(Part::A, &[rank, first], names[0])?,
            axes: FactorAxes::RankWidth,
        };
        let b = Factor { weight: part(Part::B, &[last, rank], names[1])?, axes };
        let (a, b) = if is_transposed { (b, a) } else { (a, b) };
        let has_bias = modules.iter().any(|(_, parts)| parts.contains_key(&Part::BiasOfB));
        let bias = has_bias.then(|| part(Part::BiasOfB, &[last], "lora_bias")).transpose()?;
        let (path, (matrix, rows)) = (path.clone(), matrix(path));
        Ok(LowRank { path, matrix, rows, scale: self.scale(modules, rank)?, a, b, bias })
    }

    /// A part of one module, or of the modules of all experts, each of which must have it.
    fn of_each<'m>(
        &self,
        modules: &Modules<'m>,
        part: Part,
    ) -> Result<Vec<&'m StoredTensor>, Misfit> {
        let (first, parts) = modules[0];
        let dtype = parts.get(&part).map(|tensor| tensor.dtype);
        let is_expert = matches!(first.form, ModuleForm::Expert(_));
        let of = |(at, (module, parts)): (usize, &(&Module, &'m Parts))| {
            let is_next = !is_expert || module.form == ModuleForm::Expert(at as u64);
            parts.get(&part).filter(|tensor| is_next && Some(tensor.dtype) == dtype)
        };
        let count = if is_expert { self.experts(first) } else { 1 };
        let tensors = modules.iter().enumerate().map(of).collect::<Option<Vec<_>>>();
        tensors.filter(|tensors| tensors.len() as u64 == count).ok_or_else(|| {
            format!(
                "`{}` is adapted, and not each expert of its layer in the same way: {MERGE_ADAPTER}",
                first.name
            )
            .into()
        })
    }

    fn scale(&self, modules: &Modules, rank: u64) -> Result<f64, Misfit> {
        let scales = modules.iter().map(|(module, _)| self.file.config.scale(&module.name, rank));
        let scales = scales.collect::<Result<Vec<f64>, String>>()?;
        if scales.iter().any(|scale| *scale != scales[0]) {
            let path = &modules[0].0.path;
            return Err(format!(
                "key `alpha_pattern` scales the experts of `{path}` differently: {MERGE_ADAPTER}"
            )
            .into());
        }
        Ok(scales[0])
    }

    fn check(
        &self,
        module: &Module,
        tensor: &StoredTensor,
        expected: &[u64],
    ) -> Result<(), Misfit> {
        let StoredTensor { name, shape, .. } = tensor;
        if shape == expected {
            return Ok(());
        }
        let vocabulary = self.config.vocab_size;
        let mut sizes = expected.iter().zip(shape);
        let is_resized = module.sides[0] == Side::Vocab
            && shape.len() == expected.len()
            && sizes.all(|(expected, found)| expected == found || *expected == vocabulary);
        Err(if is_resized {
            format!(
                "`{name}` has shape {shape:?}, and the base has a vocabulary of {vocabulary}, which an adapter cannot resize: {MERGE_ADAPTER}"
            )
            .into()
        } else {
            Misfit::of_base(format!(
                "`{name}` must have shape {expected:?} to fit the given base, found {shape:?}"
            ))
        })
    }

    /// Whether the base has a vector, be it a part of that of a fused matrix.
    fn has_vector(&self, name: &str) -> bool {
        let fused = ["q", "k", "v"].map(|part| (format!(".attn.{part}."), ".attn.qkv."));
        let fused = fused.iter().fold(name.to_owned(), |name, (part, all)| name.replace(part, all));
        let is_it = |weight: &Weight| weight.name == name || weight.name == fused;
        self.weights.is_none_or(|weights| weights.iter().any(is_it))
    }

    /// Decides the order of the factors of wrapped experts. One program wrote all of them, so
    /// those that fit in one order alone decide for those that fit in both.
    fn decide_order(&mut self) -> Result<()> {
        let AdapterFile { modules, weights, config, .. } = self.file;
        let wrapped =
            modules.iter().filter(|(module, _)| matches!(module.form, ModuleForm::Wrapped(_)));
        let (mut known, mut open) = (None, None);
        for (module, tensors) in wrapped {
            let [out, inn] = self.sizes(module)[..] else { unreachable!("a matrix has two sides") };
            let [a, b] = [Part::A, Part::B].map(|part| tensors.get(&part).map(|it| &*it.shape));
            let sides = match (a, b) {
                (Some([_, first]), Some([last, _])) => [*first, *last],
                _ => continue,
            };
            match [sides == [inn, out], sides == [out, inn]] {
                [true, false] => known = known.or(Some(FactorOrder::Plain)),
                [false, true] => known = known.or(Some(FactorOrder::Swapped)),
                [true, true] => open = Some(module),
                [false, false] => {}
            }
        }
        self.order = known.or(self.order);
        let (Some(module), None) = (open, self.order) else { return Ok(()) };
        let Some(version) = config.peft_version.as_ref().filter(|it| !is_always_plain(it)) else {
            self.order = Some(FactorOrder::Plain);
            return Ok(());
        };
        let error = err!(
            "`{}`: the factors of `{}` fit in two orders, and PEFT {version} stored both: 0.19.0 `plain` under transformers 4 and `swapped` under 5, later versions `swapped` under 4 and `plain` under 5; say which it is",
            weights.display(),
            module.name
        );
        Err(error
            .with_remedy(Setting::AdapterLayout, "plain")
            .with_remedy(Setting::AdapterLayout, "swapped"))
    }
}

/// The base's matrix that a module changes, and the rows of it.
fn matrix(module: &str) -> (String, Rows) {
    let (parent, name) = module.rsplit_once('.').unwrap_or(("", module));
    match name {
        "gate" => (format!("{parent}.gate_up"), Rows::Even),
        "up" => (format!("{parent}.gate_up"), Rows::Odd),
        _ => (module.to_owned(), Rows::All),
    }
}

/// Whether a version of PEFT is up to 0.18, which had one order of factors.
fn is_always_plain(version: &str) -> bool {
    let numbers = version.split('.').map(str::parse::<u32>).collect::<Vec<_>>();
    matches!(numbers[..], [Ok(0), Ok(..=18), Ok(_)])
}

/// The tensors one after the other, under another shape.
fn weight(name: String, tensors: &[&StoredTensor], shape: Vec<u64>) -> Weight {
    let recipe = match tensors {
        [tensor] => Recipe::Slice(tensor.data.clone()),
        _ => Recipe::Concat(tensors.iter().map(|tensor| tensor.data.clone()).collect()),
    };
    Weight { name, dtype: tensors[0].dtype, shape, kind: ElementKind::Float, recipe }
}
