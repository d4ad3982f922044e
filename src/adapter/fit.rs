//! An adapter's tensors against the shapes of a base.

use std::collections::BTreeMap;

use super::file::{self, AdapterFile, Parts};
use super::names::{Module, ModuleForm, Part, Side};
use super::{Adapter, FactorOrder, Replacement};
use crate::checkpoint::{ADAPTER_CONFIG, Config};
use crate::container::StoredTensor;
use crate::display::also;
use crate::error::{Result, Setting, bail, err};
use crate::files::foreign::MERGE_ADAPTER;
use crate::weights::{ElementKind, Factor, FactorAxes, LowRank, Recipe, Rows, Weight};

/// A module, or the modules of all experts, with their tensors.
type Modules<'a> = Vec<(&'a Module, &'a Parts)>;

struct Fit<'a> {
    file: &'a AdapterFile,
    config: &'a Config,
    /// In which order factors of experts are, if anything tells.
    order: Option<FactorOrder>,
}

/// What an adapter changes in a base of this config, with a weight of 1. All of it has to fit. Where
/// the file does not tell the order of the factors of experts, `order` does.
pub fn fit(file: &AdapterFile, config: &Config, order: Option<FactorOrder>) -> Result<Adapter> {
    let path = file.weights.display();
    let has_tokens = |module: &Module| module.layer.is_none() && module.sides[0] == Side::Vocab;
    if let Some(module) = file.modules.keys().find(|it| config.tied && has_tokens(it)) {
        bail!(
            "`{path}` adapts `{}`, and the base ties its embedding to lm_head: programs differ in whether both change; save the base with an lm_head of its own and `tie_word_embeddings` false",
            module.name
        );
    }
    let mut fit = Fit { file, config, order };
    let mut matrices: BTreeMap<_, Modules> = BTreeMap::new();
    for (module, tensors) in &file.modules {
        matrices.entry((module.layer, &*module.path)).or_default().push((module, tensors));
    }
    let undecided = fit.decide_order();
    let (replacements, terms) = (Vec::new(), Vec::new());
    let (weights, layers) = (file.weights.clone(), config.num_layers());
    let mut adapter = Adapter { file: weights, layers, weight: 1.0, replacements, terms };
    let misfits = matrices.values().filter_map(|modules| fit.add(modules, &mut adapter).err());
    if let [first, others @ ..] = &misfits.collect::<Vec<String>>()[..] {
        bail!("`{path}`: {first}{}", also("unfit", others.len(), "module"));
    }
    undecided?;
    Ok(adapter)
}

impl Fit<'_> {
    fn sizes(&self, module: &Module) -> Vec<u64> {
        module.sides.iter().map(|side| side.size(self.config, module.layer)).collect()
    }

    /// `[out, in]`
    fn matrix_sides(&self, module: &Module) -> [u64; 2] {
        self.sizes(module).try_into().expect("a matrix has two sides")
    }

    fn experts(&self, module: &Module) -> u64 {
        Side::Experts.size(self.config, module.layer)
    }

    /// Adds what some modules change: one module, or that of each expert.
    fn add(&self, modules: &Modules, adapter: &mut Adapter) -> Result<(), String> {
        let (module, tensors) = modules[0];
        let (name, layers) = (&module.name, self.config.num_layers());
        if module.layer.is_some_and(|layer| layer >= layers) {
            return Err(self.of_another_base(format!(
                "it adapts `{name}`, and the given base has {layers} layers"
            )));
        }
        let is_expert = |module: &Module| matches!(module.form, ModuleForm::Expert(_));
        for ((one, _), (two, _)) in modules.iter().zip(&modules[1..]) {
            if !is_expert(one) || !is_expert(two) || one.form == two.form {
                return Err(format!(
                    "`{}` and `{}` are the same, keep one of them",
                    one.name, two.name
                ));
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
    ) -> Result<Replacement, String> {
        let Module { layer, path, form, name, .. } = module;
        let (mut shape, mut replaced, mut tokens) = (self.sizes(module), path.clone(), None);
        let end = match (part, form) {
            (Part::Bias, _) => {
                // Only attention may lack biases, and lm_head has none.
                let has_bias = self.config.attention_bias || !path.contains(".attn.");
                if !has_bias || layer.is_none() {
                    return Err(self.of_another_base(format!(
                        "the given base has no bias that `{}` could replace",
                        tensor.name
                    )));
                }
                replaced += ".bias";
                shape.truncate(1);
                ".bias"
            }
            (Part::Rows, _) => {
                let (listed, vocabulary) = (self.file.config.tokens(name), shape[0]);
                if let Some(token) = listed.iter().find(|token| **token >= vocabulary) {
                    return Err(self.of_another_base(format!(
                        "key `trainable_token_indices` of {ADAPTER_CONFIG} lists token {token} for `{name}`, and the given base has a vocabulary of {vocabulary}"
                    )));
                }
                shape[0] = listed.len() as u64;
                tokens = Some(listed.to_owned());
                ".new_rows"
            }
            (_, ModuleForm::Vector) => "",
            _ => ".weight",
        };
        self.check(module, tensor, &shape)?;
        let weight = weight(format!("{path}{end}"), &[tensor], shape);
        Ok(Replacement { replaced, tokens, weight })
    }

    /// `W' = W + s · B · A`. In the file `lora_A` has the rank first and `lora_B` has it last;
    /// for embeddings, and by some versions of PEFT for experts, their product is `Wᵀ`, so that
    /// `lora_A` is our `B`.
    fn low_rank(&self, modules: &Modules) -> Result<LowRank, String> {
        let (Module { form, path, .. }, parts) = modules[0];
        let [out, inn] = self.matrix_sides(modules[0].0);
        let is_transposed = match form {
            ModuleForm::Wrapped(_) => self.order == Some(FactorOrder::Swapped),
            form => *form == ModuleForm::Embedding,
        };
        let [first, last] = if is_transposed { [out, inn] } else { [inn, out] };
        self.check_experts(modules)?;
        let experts = Some(self.experts(modules[0].0));
        let rank = file::rank(*form, &parts[&Part::A].shape, experts).unwrap_or(0).max(1);
        let names = if is_transposed { ["lora_B", "lora_A"] } else { ["lora_A", "lora_B"] };
        let weight = self.factor(modules, Part::A, &[rank, first], names[0])?;
        let a = Factor { weight, axes: FactorAxes::RankWidth };
        let axes = match form {
            ModuleForm::Wrapped(_) => FactorAxes::WidthRankExperts,
            _ => FactorAxes::WidthRank,
        };
        let b = Factor { weight: self.factor(modules, Part::B, &[last, rank], names[1])?, axes };
        let (a, b) = if is_transposed { (b, a) } else { (a, b) };
        let has_bias = modules.iter().any(|(_, parts)| parts.contains_key(&Part::BiasOfB));
        let bias = || self.factor(modules, Part::BiasOfB, &[last], "lora_bias");
        let bias = has_bias.then(bias).transpose()?;
        let (path, (matrix, rows)) = (path.clone(), matrix(path));
        Ok(LowRank { path, matrix, rows, scale: self.scale(modules, rank)?, a, b, bias })
    }

    /// A factor with these sides, or the bias of one, with an axis for experts if they do not share it.
    fn factor(
        &self,
        modules: &Modules,
        part: Part,
        sides: &[u64],
        name: &str,
    ) -> Result<Weight, String> {
        let (module, tensors) = (modules[0].0, self.of_each(modules, part)?);
        let is_shared = tensors[0].shape.first() == Some(&1);
        let [stored, shape] = shapes(module.form, part, sides, self.experts(module), is_shared);
        tensors.iter().try_for_each(|tensor| self.check(module, tensor, &stored))?;
        Ok(weight(format!("{}.{name}", module.path), &tensors, shape))
    }

    /// Refuses factors of another number of experts than the base has.
    fn check_experts(&self, modules: &Modules) -> Result<(), String> {
        let (first @ Module { name, .. }, parts) = modules[0];
        let (config, experts) = (&self.file.config, self.experts(first));
        let is_for = |found: u64, why: String| {
            self.of_another_base(format!("{why} {found} experts, and the given base has {experts}"))
        };
        // Modules are in the order of their experts.
        if let (Module { form: ModuleForm::Expert(last), .. }, _) = modules[modules.len() - 1] {
            let found = last + 1;
            if found > experts {
                return Err(is_for(found, format!("`{name}` is adapted in up to")));
            }
            if found < experts && found == modules.len() as u64 {
                let why = is_for(found, format!("`{name}` is adapted in the first"));
                return Err(format!("{why}, or, if that is the given one, {MERGE_ADAPTER}"));
            }
        }
        if let ([ranks, _], Some(rank)) = (&parts[&Part::A].shape[..], config.rank(name))
            && first.form.is_wrapped()
            && *ranks != rank.saturating_mul(experts)
        {
            let (key, _) = config.rank_key(name);
            let mut why = is_for(
                ranks / rank,
                format!(
                    "`{name}` has factors of {ranks} ranks in all, by key `{key}` of {ADAPTER_CONFIG} {rank} for each of"
                ),
            );
            if let Some(rank) = ranks.checked_div(experts).filter(|it| it * experts == *ranks) {
                why += &format!(
                    ", or, if that is the given one, the {ADAPTER_CONFIG} that was saved with the file, in which the rank is {rank}"
                );
            }
            return Err(why);
        }
        Ok(())
    }

    /// A part of one module, or of the modules of all experts, each of which must have it.
    fn of_each<'m>(
        &self,
        modules: &Modules<'m>,
        part: Part,
    ) -> Result<Vec<&'m StoredTensor>, String> {
        let (first, _) = modules[0];
        let is_expert = matches!(first.form, ModuleForm::Expert(_));
        let count = if is_expert { self.experts(first) } else { 1 };
        let tensors: Vec<_> = modules.iter().filter_map(|(_, parts)| parts.get(&part)).collect();
        let have_one_dtype = tensors.iter().all(|it| it.dtype == tensors[0].dtype);
        if tensors.len() as u64 == count && have_one_dtype {
            return Ok(tensors);
        }
        Err(format!(
            "`{}` is adapted, and not each expert of its layer in the same way: {MERGE_ADAPTER}",
            first.name
        ))
    }

    fn scale(&self, modules: &Modules, rank: u64) -> Result<f64, String> {
        let scales = modules.iter().map(|(module, _)| self.file.config.scale(&module.name, rank));
        let scales = scales.collect::<Result<Vec<f64>, String>>()?;
        if scales.iter().any(|scale| *scale != scales[0]) {
            let path = &modules[0].0.path;
            return Err(format!(
                "key `alpha_pattern` scales the experts of `{path}` differently: {MERGE_ADAPTER}"
            ));
        }
        Ok(scales[0])
    }

    /// Refuses a tensor with another shape than expected.
    fn check(
        &self,
        module: &Module,
        tensor: &StoredTensor,
        expected: &[u64],
    ) -> Result<(), String> {
        let (StoredTensor { name, shape, .. }, vocabulary) = (tensor, self.config.vocab_size);
        if shape == expected {
            return Ok(());
        }
        let mut sizes = expected.iter().zip(shape);
        let is_resized = module.sides[0] == Side::Vocab
            && shape.len() == expected.len()
            && sizes.all(|(expected, found)| expected == found || *expected == vocabulary);
        Err(if is_resized {
            format!(
                "`{name}` has shape {shape:?}, and the base has a vocabulary of {vocabulary}, which an adapter cannot resize: call resize_token_embeddings({}) of transformers on the base, load the adapter onto it, merge it (merge_and_unload of PEFT, then save_pretrained) and export the result",
                shape[expected.iter().position(|it| *it == vocabulary).unwrap_or(0)]
            )
        } else {
            self.of_another_base(format!(
                "`{name}` must have shape {expected:?} to fit the given base, found {shape:?}"
            ))
        })
    }

    /// Why something does not fit that would fit another base.
    fn of_another_base(&self, why: String) -> String {
        why + "; give the base that it was trained on" + &self.file.config.named_base()
    }

    /// Decides the order of the factors of wrapped experts. One program wrote all of them, so
    /// those that fit in one order alone decide for those that fit in both.
    fn decide_order(&mut self) -> Result<()> {
        let AdapterFile { weights, config, .. } = self.file;
        let (mut known, mut open) = (None, None);
        for (module, tensors) in self.file.wrapped() {
            let [out, inn] = self.matrix_sides(module);
            let shape = |part| tensors.get(&part).map(|it| &*it.shape);
            let (Some([_, first]), Some([last, _])) = (shape(Part::A), shape(Part::B)) else {
                continue;
            };
            match [[inn, out], [out, inn]].map(|sides| sides == [*first, *last]) {
                [true, true] => open = Some(module),
                [true, false] => known = known.or(Some(FactorOrder::Plain)),
                [false, true] => known = known.or(Some(FactorOrder::Swapped)),
                [false, false] => {}
            }
        }
        let of_version = config.is_always_plain().then_some(FactorOrder::Plain);
        self.order = known.or(self.order).or(of_version);
        let (Some(module), None) = (open, self.order) else { return Ok(()) };
        let why = match &config.peft_version {
            Some(version) if !version.is_empty() => format!("PEFT {version} wrote it"),
            _ => format!("{ADAPTER_CONFIG} does not say which PEFT wrote it (`peft_version`)"),
        };
        let error = err!(
            "`{}`: the factors of `{}` fit in two orders, and {why}: up to 0.18 `plain`, 0.19.0 `plain` under transformers 4 and `swapped` under 5, later versions `swapped` under 4 and `plain` under 5; say which it is",
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

/// The shape in the file of a factor with these sides, or of the bias of one, and that of the same
/// bytes with an axis for experts. Stacked experts may share it.
fn shapes(
    form: ModuleForm,
    part: Part,
    sides: &[u64],
    experts: u64,
    is_shared: bool,
) -> [Vec<u64>; 2] {
    let led_by = |count: u64| [&[count], sides].concat();
    match (form, part, sides) {
        (ModuleForm::Wrapped(_), Part::A, [rank, width]) => {
            [vec![experts * rank, *width], led_by(experts)]
        }
        (ModuleForm::Wrapped(_), _, [width, rank]) => {
            [vec![*width, rank * experts], vec![*width, *rank, experts]]
        }
        (ModuleForm::Expert(_), ..) => [sides.to_vec(), led_by(experts)],
        (ModuleForm::Stacked, ..) if is_shared => [led_by(1), sides.to_vec()],
        (ModuleForm::Stacked, ..) => [led_by(experts), led_by(experts)],
        _ => [sides.to_vec(), sides.to_vec()],
    }
}

/// The tensors one after the other, under another shape.
fn weight(name: String, tensors: &[&StoredTensor], shape: Vec<u64>) -> Weight {
    let recipe = match tensors {
        [tensor] => Recipe::Slice(tensor.data.clone()),
        _ => Recipe::Concat(tensors.iter().map(|tensor| tensor.data.clone()).collect()),
    };
    Weight { name, dtype: tensors[0].dtype, shape, kind: ElementKind::Float, recipe }
}
