//! An adapter's folder: its tensors by the modules that they adapt, before there is a base.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::path::{Path, PathBuf};

use super::config::{AdapterConfig, refuse_other_methods};
use super::names::{Module, ModuleForm, PARAMETERS, Part, as_saved, place};
use crate::checkpoint::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, IgnoredNames, adapter_without_config, below, choice,
    folder_on_hub, is_adapter, is_checkpoint, is_ignored, matches, nearest, other_adapter_file,
    patterns, refuse_other_format, renamed_adapter_file,
};
use crate::container::{Header, StoredTensor};
use crate::display::{also, listed, plural};
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::files::foreign::{MERGE_ADAPTER, NOT_GATHERED};
use crate::files::{canonicalize, parent_dir};
use crate::onnx::ADAPTER_EXTENSION;
use crate::progress::Silent;
use crate::weights::{ElementKind, FileCache, Weight, has_equal_values, require_finite};

/// An adapter of which the config and the header have been read.
#[derive(Debug, Default)]
pub struct AdapterFile {
    /// How it scales what it adds.
    pub config: AdapterConfig,
    /// The SafeTensors file.
    pub weights: PathBuf,
    /// Repository, commit and folder on the hub that it was fetched from.
    pub source: Option<String>,
    /// All that it adapts.
    pub modules: BTreeMap<Module, Parts>,
    /// What the user ignores of it, and by which names and patterns.
    pub ignored: IgnoredNames,
}

/// The tensors of a module.
pub type Parts = BTreeMap<Part, StoredTensor>;

/// The rank of factors, by the shape of `lora_A`. That of wrapped experts depends on their
/// number.
pub fn rank(form: ModuleForm, shape: &[u64], experts: Option<u64>) -> Option<u64> {
    match form {
        ModuleForm::Wrapped(_) => shape.first()?.checked_div(experts?),
        ModuleForm::Stacked => shape.get(1).copied(),
        _ => shape.first().copied(),
    }
}

impl AdapterFile {
    /// Opens an adapter's folder, or its SafeTensors file with the config beside it.
    pub fn open(path: &Path, ignored: &IgnoredNames) -> Result<Self> {
        let [config, weights] = locate(path)?;
        refuse_other_methods(&config)?;
        let config = AdapterConfig::read(&config, &ignored.config_keys);
        let read = config.as_ref().ok().map(|(config, _)| config);
        let modules = read_modules(&weights, &ignored.tensors, read);
        let ((config, keys), (modules, tensors)) = Error::both(config, modules)?;
        let of_adapters = [keys.of_adapters, tensors.of_adapters].concat();
        let ignored = IgnoredNames { of_adapters, tensors: tensors.tensors, ..keys }.by(ignored);
        let mut file = Self { config, weights, source: None, modules, ignored };
        file.name_wrapped()?;
        file.check()?;
        Ok(file)
    }

    /// A module of wrapped experts, if the shapes of none tell the order of its factors, and no version
    /// of PEFT does.
    pub fn undecided(&self) -> Option<&Module> {
        let width = |parts: &Parts, part, axis: usize| parts.get(&part)?.shape.get(axis).copied();
        let is_square =
            |(_, parts): (_, &Parts)| width(parts, Part::A, 1) == width(parts, Part::B, 0);
        let is_open = !self.config.is_always_plain() && self.wrapped().all(is_square);
        self.wrapped().next().filter(|_| is_open).map(|(module, _)| module)
    }

    /// Parameters of all experts, which PEFT wraps.
    pub fn wrapped(&self) -> impl Iterator<Item = (&Module, &Parts)> {
        self.modules.iter().filter(|(module, _)| module.form.is_wrapped())
    }

    /// Refuses values that are infinite or NaN.
    pub fn require_finite(&self) -> Result<()> {
        let tensors = self.modules.values().flat_map(BTreeMap::values).cloned();
        let mut weights = tensors.map(Weight::from);
        weights.try_for_each(|it| require_finite(&it, &mut FileCache::default(), &Silent))
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        let folder = parent_dir(&self.weights);
        // `.` has no name.
        let real = canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        real.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Gives wrapped experts the names of their parameters: PEFT wraps those of
    /// `target_parameters` one after the other, in the module's order, the first one innermost.
    fn name_wrapped(&mut self) -> Result<()> {
        let mut by_name = BTreeMap::<_, Vec<_>>::new();
        for (module, parts) in mem::take(&mut self.modules) {
            if module.form.is_wrapped() {
                by_name.entry(module.name.clone()).or_default().push((module, parts));
            } else {
                self.modules.insert(module, parts);
            }
        }
        let path = self.weights.display();
        for (name, wrappers) in by_name {
            let mut adapted = PARAMETERS.to_vec();
            adapted.retain(|it| self.config.adapts_parameter(&format!("{name}.{}", it.0)));
            ensure!(
                adapted.iter().all(|(.., sides)| !sides.is_empty()),
                "`{path}` adapts a bias of `{name}` (key `target_parameters` of {ADAPTER_CONFIG}), which is not supported: {MERGE_ADAPTER}"
            );
            let is_innermost = |(module, _): &(Module, Parts)| {
                module.form == ModuleForm::Wrapped(adapted.len().saturating_sub(1))
            };
            ensure!(
                adapted.len() == wrappers.len() && wrappers.last().is_some_and(is_innermost),
                "`{path}` has factors for {} parameters of `{name}`, and key `target_parameters` of {ADAPTER_CONFIG} names {} of them: use the config that was saved with the file",
                wrappers.len(),
                adapted.len()
            );
            let parameters = adapted.into_iter().zip(wrappers.into_iter().rev());
            for ((stored, canonical, sides), (module, parts)) in parameters {
                let (name, path) =
                    (format!("{name}.{stored}"), format!("{}.{canonical}", module.path));
                self.modules.insert(Module { path, sides, name, ..module }, parts);
            }
        }
        Ok(())
    }
}

/// The config and the tensors of an adapter in a folder, or of its SafeTensors file. Both exist.
fn locate(path: &Path) -> Result<[PathBuf; 2]> {
    ensure!(
        path.extension().is_none_or(|it| it != ADAPTER_EXTENSION),
        "`{}` is an adapter for runtimes: give the LoRA folder that it was made from",
        path.display()
    );
    let is_file = path.is_file();
    let folder = if is_file { parent_dir(path) } else { path };
    let (shown, config) = (folder.display(), folder.join(ADAPTER_CONFIG));
    let weights = if is_file { path.to_owned() } else { folder.join(ADAPTER_WEIGHTS) };
    if is_file && path.ends_with(ADAPTER_CONFIG) {
        return Err(err!("`{}` is the config of an adapter: give its folder", path.display())
            .with_remedy(Setting::Adapter, shown.to_string()));
    }
    ensure!(
        folder.is_dir(),
        "there is no folder `{shown}`; an adapter is a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, or owner/name of a repository on the hub{}",
        folder_on_hub(folder)
    );
    let is_missing = |file: &Path| file.symlink_metadata().is_err();
    let is_whole = is_checkpoint(folder);
    let refuse = |applies: bool, refusal: fn(&Path) -> Option<Error>| match refusal(folder) {
        Some(error) if applies => Err(error),
        _ => Ok(()),
    };
    refuse(is_missing(&weights), refuse_other_format)?;
    refuse(!is_file, other_adapter_file)?;
    refuse(!is_file && !is_whole, renamed_adapter_file)?;
    if !is_whole && weights.exists() && is_missing(&config) {
        return Err(adapter_without_config(&weights));
    }
    let whole = if is_whole { "; it holds a whole model" } else { "" };
    for (file, name) in [(&config, ADAPTER_CONFIG), (&weights, ADAPTER_WEIGHTS)] {
        ensure!(!is_missing(file), "`{shown}` holds no {name}{whole}; {}", elsewhere(folder));
    }
    Ok([config, weights])
}

/// What to do about a folder that is no adapter: where one is, or what an adapter is.
fn elsewhere(folder: &Path) -> String {
    let below = below(folder);
    choice(&nearest(&below, |it| is_adapter(&it.names)), "LoRA adapter").unwrap_or_else(|| {
        format!("an adapter is a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    })
}

/// The tensors of a file by their modules, and those of the `ignored` names and patterns that fit
/// a tensor without a module; all others without one are refused.
fn read_modules(
    path: &Path,
    ignored: &[String],
    config: Option<&AdapterConfig>,
) -> Result<(BTreeMap<Module, Parts>, IgnoredNames)> {
    let shown = path.display();
    let (mut modules, mut unknown) = (BTreeMap::<_, Parts>::new(), Vec::new());
    let tensors = without_copies(path, Header::read(path)?.tensors)?;
    let names: Vec<String> = tensors.iter().map(|it| it.name.clone()).collect();
    for tensor in tensors {
        let name = tensor.name.clone();
        let Some((module, part)) = place(&name) else {
            unknown.push(name);
            continue;
        };
        let (kind, dtype) = (ElementKind::Float, tensor.dtype);
        ensure!(
            kind.accepts(dtype),
            "`{shown}`: tensor `{name}` must be {kind}, found {dtype}: save the adapter in one of these"
        );
        ensure!(
            !tensor.shape.contains(&0),
            "`{shown}`: tensor `{name}` is empty (shape {:?}), {NOT_GATHERED}",
            tensor.shape
        );
        if let Some(other) = modules.entry(module).or_default().insert(part, tensor) {
            bail!("`{shown}` holds both `{name}` and `{}`, which say the same", other.name);
        }
    }
    let used = ignored.iter().filter(|it| unknown.iter().any(|name| matches(it, name)));
    let of_adapters = used.cloned().collect();
    let tensors: Vec<String> = unknown.extract_if(.., |name| is_ignored(name, ignored)).collect();
    ensure!(
        tensors.is_empty() || tensors.len() < names.len(),
        "all tensors of `{shown}` are ignored, and nothing of the adapter is left: {NO_ADAPTER}"
    );
    ensure!(
        !names.is_empty(),
        "`{shown}` holds no tensors: use the file that was saved after training"
    );
    refuse_base(path, &names, &unknown, config)?;
    refuse_other_names(path, &unknown)?;
    let (unsupported, foreign): (Vec<String>, _) = unknown.into_iter().partition(|it| adapts(it));
    let mut errors = Vec::from_iter(unsupported_ways(path, &unsupported));
    let base = config.and_then(|config| config.base.as_deref());
    errors.extend(misplaced(path, &foreign, &names, base));
    errors.extend(unpaired(path, &modules));
    Error::all(errors)?;
    Ok((modules, IgnoredNames { tensors, of_adapters, ..IgnoredNames::default() }))
}

/// What to do about a file without a module of a GPT-OSS model.
const NO_ADAPTER: &str = "use an adapter of this base, as save_pretrained of PEFT writes it";
/// Parts of the names of what is trained.
const TRAINED: [&str; 3] = ["lora_", SAVED, "trainable_tokens_delta"];
/// Parts of the names that PEFT gives what it saves as a whole, and what that replaces.
const SAVED: &str = ".modules_to_save.";
const OF_BASE_ITSELF: &str = ".original_module.";
/// Parts of the names of weights of a base that no adapter has.
const OF_BASE: [&str; 4] = [".mlp.experts.", ".mlp.mlp1_", ".mlp.mlp2_", OF_BASE_ITSELF];

/// Leaves out what PEFT writes beside an embedding or lm_head that it saves as a whole: a copy of it, and
/// the base's.
fn without_copies(path: &Path, mut tensors: Vec<StoredTensor>) -> Result<Vec<StoredTensor>> {
    let by_name: HashMap<String, StoredTensor> =
        tensors.iter().map(|it| (it.name.clone(), it.clone())).collect();
    let saved = |it: &StoredTensor, mark| by_name.get(&it.name.replace(mark, "."));
    for copy in tensors.iter().filter(|it| it.name.contains(SAVED)) {
        let Some(saved) = saved(copy, SAVED) else { continue };
        let [one, other] = [saved, copy].map(|it| it.clone().into());
        ensure!(
            has_equal_values(&one, &other, &mut FileCache::default(), &Silent)?,
            "`{}` holds `{}` and `{}`, which must be equal and are not: save the adapter again",
            path.display(),
            saved.name,
            copy.name
        );
    }
    tensors.retain(|it| {
        let is_copy = |mark| it.name.contains(mark) && saved(it, mark).is_some();
        !is_copy(SAVED) && !is_copy(OF_BASE_ITSELF)
    });
    Ok(tensors)
}

/// Refuses a whole model, and a state dict with the weights of the base.
fn refuse_base(
    path: &Path,
    names: &[String],
    unknown: &[String],
    config: Option<&AdapterConfig>,
) -> Result<()> {
    let is_of_base = |name: &&String| !TRAINED.iter().any(|it| name.contains(it));
    let is_known = |name: &&String| is_of_base(name) && OF_BASE.iter().any(|it| name.contains(it));
    let Some(example) = unknown.iter().find(is_known) else { return Ok(()) };
    ensure!(
        example.contains(OF_BASE_ITSELF) || !config.is_some_and(|it| it.saves(example)),
        "`{}` replaces experts as a whole, with `{example}`, as key `modules_to_save` of its {ADAPTER_CONFIG} says, which is not supported: {MERGE_ADAPTER}",
        path.display()
    );
    let ([of_base, all], path) =
        ([names.iter().filter(is_of_base).count(), names.len()], path.display());
    ensure!(
        of_base < all,
        "`{path}` holds whole weights such as `{example}` and no factors (`lora_`): if it is a whole model, export it as a checkpoint, under the name model.safetensors beside its config.json; if it is an adapter with these modules trained as a whole, {MERGE_ADAPTER}"
    );
    bail!(
        "`{path}` holds weights of its base model too, in {of_base} of {all} tensors, such as `{example}`: save the adapter alone with save_pretrained of PEFT, or keep only the trained tensors: those with `lora_`, `modules_to_save` or `trainable_tokens_delta` in their names, and biases that were trained"
    );
}

/// Refuses the names of a state dict and misspelt ones, by which they would be PEFT's.
fn refuse_other_names(path: &Path, unknown: &[String]) -> Result<()> {
    let renamed: Vec<_> = unknown.iter().filter_map(|name| Some((name, as_saved(name)?))).collect();
    // An example of each kind.
    let kind = |name: &str| TRAINED.iter().position(|it| name.contains(it));
    let mut kinds: Vec<_> = renamed.iter().collect();
    kinds.sort_by_key(|(name, _)| kind(name));
    kinds.dedup_by_key(|(name, _)| kind(name));
    if kinds.is_empty() {
        return Ok(());
    }
    let examples: Vec<_> =
        kinds.iter().map(|(name, saved)| format!("`{name}` to `{saved}`")).collect();
    let others = match renamed.len() - kinds.len() {
        0 => String::new(),
        count => format!(", and the {} alike", plural(count, "other")),
    };
    bail!(
        "`{}` has names that are not PEFT's: save the adapter with save_pretrained, of the model inside all wrappers, or rename {}{others}",
        path.display(),
        examples.join(", ")
    )
}

/// Whether a tensor without a place adapts a module of a GPT-OSS model all the same.
fn adapts(tensor: &str) -> bool {
    let module = tensor.replace(".base_layer", "");
    let module = module.split_once(".lora_").map(|(module, _)| module);
    let has_place = |module: &str, end| place(&format!("{module}{end}")).is_some();
    module.is_some_and(|it| has_place(it, ".weight") || has_place(it, ".lora_A.weight"))
}

/// The error for tensors that adapt modules of the model in other ways.
fn unsupported_ways(path: &Path, tensors: &[String]) -> Option<Error> {
    (!tensors.is_empty()).then(|| {
        err!(
            "`{}` adapts modules in a way that is not supported, with the tensors {}: {MERGE_ADAPTER}",
            path.display(),
            listed(tensors.iter())
        )
    })
}

/// The errors for tensors without a module, of all `names` in the file of an adapter of `base`. An adapter
/// without some factors is another one, so no pattern is recommended for these.
fn misplaced(path: &Path, unknown: &[String], names: &[String], base: Option<&str>) -> Vec<Error> {
    let path = path.display();
    let (mut factors, others): (Vec<&String>, Vec<&String>) =
        unknown.iter().partition(|name| name.contains("lora_"));
    let is_foreign = unknown.len() == names.len();
    if is_foreign {
        factors = names.iter().collect();
    }
    let base = base.map_or(String::new(), |base| format!(" (its config names the base `{base}`)"));
    let or = if is_foreign { "" } else { ", or ignore these tensors by name" };
    let of_factors = factors.first().map(|first| {
        err!("`{path}` adapts modules that no GPT-OSS model has, such as `{first}`{base}: {NO_ADAPTER}{or}")
    });
    if others.is_empty() || is_foreign {
        return Vec::from_iter(of_factors);
    }
    let error = err!(
        "`{path}` holds tensors that adapt nothing in a GPT-OSS model: {}; use an adapter of this base, or ignore what may be left out, by name or by a pattern with * and ?",
        listed(others.iter())
    );
    let rest = names.iter().filter(|name| !others.contains(name)).map(String::as_str);
    let others: Vec<&str> = others.iter().map(|it| it.as_str()).collect();
    let patterns =
        patterns(others.iter().copied(), rest).into_iter().map(|it| (Setting::IgnoreTensor, it));
    of_factors.into_iter().chain([error.with_remedies(patterns.collect())]).collect()
}

/// The error for factors without the other one.
fn unpaired(path: &Path, modules: &BTreeMap<Module, Parts>) -> Option<Error> {
    let mut unpaired = modules.values().filter_map(|tensors| {
        let [a, b] = [Part::A, Part::B].map(|part| tensors.get(&part));
        let lonely = a.xor(b).or(tensors.get(&Part::BiasOfB).filter(|_| a.is_none()))?;
        Some((lonely, if a.is_none() { "A" } else { "B" }))
    });
    let (StoredTensor { name, .. }, missing) = unpaired.next()?;
    Some(err!(
        "`{}` has `{name}` without the factor {missing} of its module: the file is incomplete, copy it again{}",
        path.display(),
        also("incomplete", unpaired.count(), "module")
    ))
}
