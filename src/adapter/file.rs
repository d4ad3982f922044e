//! An adapter's folder: its tensors by the modules that they adapt, before there is a base.

use std::collections::BTreeMap;
use std::mem;
use std::path::{Path, PathBuf};

use super::config::{AdapterConfig, CONFIG, MERGE, is_ignored};
use super::names::{Form, Module, PARAMETERS, Part, place};
use crate::checkpoint::{INDEX, IgnoredNames, SINGLE_FILE, is_checkpoint};
use crate::container::{Header, StoredTensor};
use crate::display::plural;
use crate::error::{Error, Result, Setting, bail, ensure, err};
use crate::weights::ElementKind;

pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Files in the place of the weights, and what to do.
const OTHER_WEIGHTS: [(&str, &str); 2] = [
    (
        "adapter_model.bin",
        "PyTorch's format, which can run code when it is read: load it in PEFT and save it as SafeTensors (save_pretrained does)",
    ),
    (
        "adapters.safetensors",
        "mlx-lm's format: merge it into its base model with mlx_lm.fuse, dequantized, and export the result",
    ),
];

/// An adapter of which the config and the header have been read.
#[derive(Debug, Default)]
pub struct AdapterFile {
    pub config: AdapterConfig,
    /// The SafeTensors file.
    pub weights: PathBuf,
    pub modules: BTreeMap<Module, Parts>,
}

/// The tensors of a module.
pub type Parts = BTreeMap<Part, StoredTensor>;

/// Whether a folder holds an adapter and no whole model.
pub fn is_adapter(folder: &Path) -> bool {
    let has = |name: &&str| folder.join(name).exists();
    has(&CONFIG) && ![SINGLE_FILE, INDEX].iter().any(has)
}

/// The rank of factors, by the shape of `lora_A`. That of wrapped experts depends on their
/// number.
pub fn rank(form: Form, shape: &[u64], experts: Option<u64>) -> Option<u64> {
    match form {
        Form::Wrapped(_) => shape.first()?.checked_div(experts?),
        Form::Stacked => shape.get(1).copied(),
        _ => shape.first().copied(),
    }
}

impl AdapterFile {
    pub fn open(folder: &Path, ignored: &IgnoredNames) -> Result<Self> {
        let shown = folder.display();
        ensure!(
            folder.is_dir(),
            "there is no folder `{shown}`; an adapter is a folder with {CONFIG} and {WEIGHTS}"
        );
        let (config, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
        let other = OTHER_WEIGHTS.iter().find(|(name, _)| folder.join(name).exists());
        if let Some((name, what)) = other.filter(|_| !weights.exists()) {
            bail!("`{}` is {what}", folder.join(name).display());
        }
        let whole = if is_checkpoint(folder) { "; it holds a whole model" } else { "" };
        for name in [CONFIG, WEIGHTS] {
            let is_there = folder.join(name).symlink_metadata().is_ok();
            ensure!(
                is_there,
                "`{shown}` holds no {name}{whole}; an adapter is a folder with {CONFIG} and {WEIGHTS}"
            );
        }
        let (config, unknown_keys) = AdapterConfig::read(&config, &ignored.config_keys)?;
        let mut file = Self { config, weights, modules: BTreeMap::new() };
        let unknown_tensors = file.add_tensors(&ignored.tensors)?;
        file.name_wrapped()?;
        Error::all(unknown_keys.into_iter().chain(unknown_tensors).chain(file.unpaired()))?;
        Ok(file)
    }

    /// Adds all tensors of the file. Those without a place are an error.
    fn add_tensors(&mut self, ignored: &[String]) -> Result<Option<Error>> {
        let (path, mut unknown) = (self.weights.display(), Vec::new());
        for tensor in Header::read(&self.weights)?.tensors {
            let name = tensor.name.clone();
            let Some((module, part)) = place(&name) else {
                unknown.extend((!is_ignored(&name, ignored)).then_some(name));
                continue;
            };
            let (kind, dtype) = (ElementKind::Float, tensor.dtype);
            ensure!(kind.accepts(dtype), "`{path}`: tensor `{name}` must be {kind}, found {dtype}");
            if let Some(other) = self.modules.entry(module).or_default().insert(part, tensor) {
                bail!("`{path}` holds both `{name}` and `{}`, which say the same", other.name);
            }
        }
        let Some(first) = unknown.first() else { return Ok(None) };
        let more = match unknown.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let error = err!(
            "`{path}` holds tensors that adapt nothing in a GPT-OSS model, or in a way that is not supported: `{first}`{more}; use an adapter of this base, or ignore what may be left out, by name or by a pattern with * and ?"
        );
        Ok(Some(error.with_remedy(Setting::IgnoreTensor, first)))
    }

    /// Gives wrapped experts the names of their parameters: PEFT wraps those of
    /// `target_parameters` one after the other, in the module's order, the first one innermost.
    fn name_wrapped(&mut self) -> Result<()> {
        let is_wrapped = |(module, _): &(Module, Parts)| matches!(module.form, Form::Wrapped(_));
        let (wrapped, others) = mem::take(&mut self.modules).into_iter().partition(is_wrapped);
        self.modules = others;
        let mut by_name = BTreeMap::<_, Vec<_>>::new();
        for (module, parts) in wrapped {
            by_name.entry(module.name.clone()).or_default().push((module, parts));
        }
        let path = self.weights.display();
        for (name, wrappers) in by_name {
            let is_adapted =
                |at: &usize| self.config.adapts_parameter(&format!("{name}.{}", PARAMETERS[*at].0));
            let adapted: Vec<usize> = (0..PARAMETERS.len()).filter(is_adapted).collect();
            ensure!(
                adapted.iter().all(|at| !PARAMETERS[*at].2.is_empty()),
                "`{path}` adapts a bias of `{name}` (key `target_parameters` of {CONFIG}), which is not supported: {MERGE}"
            );
            let is_innermost = |(module, _): &(Module, Parts)| {
                module.form == Form::Wrapped(adapted.len().saturating_sub(1))
            };
            ensure!(
                adapted.len() == wrappers.len() && wrappers.last().is_some_and(is_innermost),
                "`{path}` has factors for {} parameters of `{name}`, and key `target_parameters` of {CONFIG} names {} of them: use the config that was saved with the file",
                wrappers.len(),
                adapted.len()
            );
            for (at, (module, parts)) in adapted.into_iter().zip(wrappers.into_iter().rev()) {
                let (stored, canonical, sides) = PARAMETERS[at];
                let (name, path) =
                    (format!("{name}.{stored}"), format!("{}.{canonical}", module.path));
                self.modules.insert(Module { path, sides, name, ..module }, parts);
            }
        }
        Ok(())
    }

    /// The error of factors without the other one.
    fn unpaired(&self) -> Option<Error> {
        let mut unpaired = self.modules.values().filter_map(|tensors| {
            let [a, b] = [Part::A, Part::B].map(|part| tensors.get(&part));
            let lonely = a.xor(b).or(tensors.get(&Part::BiasOfB).filter(|_| a.is_none()))?;
            Some((lonely, if a.is_none() { "A" } else { "B" }))
        });
        let (StoredTensor { name, .. }, missing) = unpaired.next()?;
        let others = match unpaired.count() {
            0 => String::new(),
            count => format!("; also incomplete: {}", plural(count, "module")),
        };
        let path = self.weights.display();
        Some(err!(
            "`{path}` has `{name}` without the factor {missing} of its module: the file is incomplete, copy it again{others}"
        ))
    }
}
