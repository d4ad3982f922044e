//! Opens checkpoints: config and headers are read and checked against each other, and
//! every weight gets its canonical name and a recipe.

mod adapter_record;
mod below;
mod config;
mod ignored;
mod instead;
mod lacking;
mod layout;
mod mismatch;
mod names;
mod numbered;
mod problems;
mod renamed;
mod selection;
mod similar;
mod staged;
mod suggest;
mod tensors;
mod tied;
mod weights;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;

pub use adapter_record::AdapterRecord;
pub use below::{Subfolder, below, nearest};
pub use config::{
    BLOCKS, Config, ConfigFile, ConfigReader, Dialect, Expected, Group, LARGEST_CONFIG,
    MOST_LAYERS, PUZZLE, Rope, any_value,
};
pub use ignored::IgnoredNames;
pub use instead::DOWNLOADS;
use layout::{Assembly, Layout, Wrong};
pub use names::{WRAPPERS, is_ignored, matches, patterns};
pub use selection::{Headers, INDEX, Index, SINGLE_FILE, read_index, select, select_local};
pub use similar::most_like;
pub use staged::StagedModel;
pub use suggest::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, adapter_without_config, choice, did_you_mean,
    enclosing, find_format, folder_on_hub, identify, is_adapter, is_checkpoint, is_safetensors,
    names, other_adapter_file, refuse_file as refuse_unsupported, refuse_other_format,
    renamed_adapter_file, similar_dir,
};
use tensors::Tensors;
pub use weights::{
    AttentionWeights, Embedding, ExpertWeights, LayerWeights, Linear, MlpWeights, ModelWeights,
};

use crate::container::Header;
use crate::display::listed;
use crate::error::{Error, Result, ensure};
use crate::files::json;
use crate::tensor::DType;
use crate::weights::{
    Changes, Fingerprint, MatrixFormat, PerRole, Provenance, Role, Samples, StagedMetadata,
};

/// A checkpoint of which only headers have been read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub config: Config,
    pub weights: ModelWeights,
    /// Formats and rounding of the matrices, without the rounding of pending conversions.
    pub provenances: PerRole<Provenance>,
    /// The layout and the forms of experts, for people.
    pub layout: String,
    /// What was left out or decided when it was read, for people.
    pub notes: Vec<String>,
    /// Number of layers in the checkpoint, before [`Self::truncate`].
    pub layers_there: usize,
    /// What the user ignores of it.
    pub ignored: IgnoredNames,
    /// Adapters that are merged into its values.
    pub adapters: Vec<AdapterRecord>,
    /// The file of an lm_head that is taken for a copy of the embedding to which the config ties it;
    /// certain once both are on this machine and the checkpoint is opened again.
    pub copy_of_embedding: Option<Arc<Path>>,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and SafeTensors files.
    pub fn open(folder: &Path, ignored: &IgnoredNames) -> Result<Self> {
        Self::open_files(folder, &Headers::default(), ignored)
    }

    /// The same with `remote` SafeTensors files that are still to be downloaded.
    pub fn open_files(folder: &Path, remote: &Headers, ignored: &IgnoredNames) -> Result<Self> {
        // Sentences show paths without a slash at the end.
        let folder = &folder.components().collect::<PathBuf>();
        if !folder.is_dir() {
            return Err(suggest::not_a_folder(folder));
        }
        // A folder that cannot be read would seem to be empty.
        fs::read_dir(folder)?;
        let path = folder.join(CONFIG);
        // Dangling links and unreadable files fail when they are read.
        if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Err(Self::missing_file(folder, CONFIG));
        }
        let file = path.display().to_string();
        let selected = selection::select_local(folder, remote);
        if matches!(&selected, Ok((None, files)) if files.is_empty()) {
            return Err(Self::missing_file(folder, SINGLE_FILE));
        }
        let mut tensors =
            selected.and_then(|files| Tensors::open_folder(folder, files, remote, ignored));
        let layers = tensors.as_ref().ok().and_then(Tensors::layers);
        let mut config = json::read(&path, LARGEST_CONFIG)
            .and_then(|text| ConfigFile::read(&file, &text, ignored, layers));
        if config.is_err() {
            tensors = tensors.and_then(problems::require_shards);
        }
        let unknown_keys = config.as_mut().ok().and_then(|it| it.unknown.take());
        let opened = Error::both(config, tensors).and_then(|(config, tensors)| {
            let ConfigFile { config, dialect, ignored, .. } = config;
            Ok((Self::assemble(Layout::of(dialect), config, tensors, &file)?, ignored))
        });
        let ((), (mut checkpoint, config_keys)) =
            Error::both(unknown_keys.map_or(Ok(()), Err), opened)?;
        checkpoint.ignored = IgnoredNames { config_keys, ..checkpoint.ignored }.by(ignored);
        Ok(checkpoint)
    }

    /// Opens a weights file that an export wrote, and returns its metadata too.
    pub fn open_staged(path: &Path) -> Result<(Self, StagedMetadata<StagedModel>)> {
        let (tensors, metadata) = staged::open(path)?;
        staged::require_whole(&tensors, &metadata.model.config)?;
        let layout = staged::layout(&tensors);
        let StagedModel { config, adapters } = metadata.model.clone();
        let file = path.display().to_string();
        let mut checkpoint = Self::assemble(layout, config, tensors, &file)?;
        let invalid = |reason| staged::invalid_metadata(path, &reason);
        metadata.provenances.check(&checkpoint.provenances).map_err(invalid)?;
        checkpoint.provenances = metadata.provenances.clone();
        if !adapters.is_empty() {
            let names = listed(adapters.iter().map(|it| &it.name));
            checkpoint.layout += &format!(", with merged adapters: {names}");
        }
        checkpoint.adapters = adapters;
        Ok((checkpoint, metadata))
    }

    /// The error for a folder without `file`, which is no checkpoint.
    fn missing_file(folder: &Path, file: &str) -> Error {
        let paths = suggest::names(folder).into_iter().map(|name| folder.join(name));
        let own = paths.filter(|path| is_safetensors(path) && Header::is_own(path));
        let own: Vec<PathBuf> = own.collect();
        let mut staged = own.clone();
        staged.retain(|path| Self::open_staged(path).is_ok());
        suggest::staged_instead(folder, file, &staged)
            .or_else(|| own.first().map(|weights| suggest::exported_instead(folder, file, weights)))
            .unwrap_or_else(|| suggest::missing_file(folder, file))
    }

    /// Opens a folder, or a weights file with the fingerprint that it records.
    pub fn open_any(path: &Path, ignored: &IgnoredNames) -> Result<(Self, Option<Fingerprint>)> {
        if path.is_file() {
            let (checkpoint, metadata) = Self::open_staged(path)?;
            return Ok((checkpoint, Some(metadata.fingerprint)));
        }
        Ok((Self::open(path, ignored)?, None))
    }

    /// Takes all weights of a model with this config, read from `file`.
    fn assemble(layout: Layout, config: Config, mut tensors: Tensors, file: &str) -> Result<Self> {
        problems::refuse_empty(&tensors)?;
        let layers = config.num_layers();
        let mut forms = layout.forms_of_experts(layers, &tensors);
        if forms.is_empty() {
            layout.refuse_other(layers, &tensors, file)?;
            forms.push(layout.expected_form(&tensors));
        }
        layout.refuse_ambiguous(layers, &tensors)?;
        let said = config.experts.clone();
        let config = layout.resolve_config(config, &tensors, file)?;
        let mut copy_of_embedding = None;
        if config.tied && !layout.unties {
            copy_of_embedding = tied::accept_copy(&layout, &mut tensors, file)?;
        }
        let (tensors, wrong) = (&mut tensors, Wrong::default());
        let usual = forms[0];
        let mut assembly = Assembly { layout, config: &config, tensors, usual, wrong };
        let weights = assembly.model();
        let name = layout.with_forms(&forms);
        problems::refuse(assembly.tensors, assembly.wrong, &name, &config, file)?;
        let mut notes = tensors.wrapping.notes();
        if config.experts != said {
            notes.push(format!(
                "layers have as many experts as routers have rows; the config says {} in each",
                said[0]
            ));
        }
        if !tensors.unused_files.is_empty() {
            let files = listed(tensors.unused_files.iter());
            notes.push(format!("not used: the other SafeTensors files {files}"));
        }
        let ignored = tensors.left().filter(|name| tensors.is_ignored(name)).cloned().collect();
        let ignored = IgnoredNames { tensors: ignored, ..IgnoredNames::default() };
        let unchanged = |role| Provenance::unchanged(weights.formats(role));
        let [experts, dense] = [Role::Experts, Role::Dense].map(unchanged);
        Ok(Self {
            provenances: PerRole { experts, dense },
            layout: name,
            notes,
            layers_there: layers,
            ignored,
            adapters: Vec::new(),
            copy_of_embedding,
            config,
            weights,
        })
    }

    pub fn convert(&mut self, role: Role, to: MatrixFormat, accept_rounding: bool) -> Result<()> {
        self.weights.convert(role, to, accept_rounding)?;
        self.update_formats();
        Ok(())
    }

    /// Folds what adapters change into the values, [`ModelWeights::merge`].
    pub fn merge(&mut self, to: &PerRole<MatrixFormat>, accept_rounding: bool) -> Result<()> {
        self.weights.merge(to, accept_rounding)?;
        self.update_formats();
        Ok(())
    }

    /// Replaces bf16 by other floats, [`ModelWeights::replace_bf16`].
    pub fn replace_bf16(&mut self, of_products: DType) -> Result<()> {
        self.weights.replace_bf16(of_products)?;
        self.update_formats();
        Ok(())
    }

    fn update_formats(&mut self) {
        for role in Role::ALL {
            self.provenances[role].format = self.weights.formats(role);
        }
    }

    /// What identifies the model besides its weights: config, provenance, how changes are made.
    pub fn identity(&self) -> String {
        let changes = self.weights.changes().map(Changes::identity).collect::<String>();
        let config = serde_json::to_string(&self.config).expect("plain numbers");
        config + &self.provenances.canonical() + &changes
    }

    /// What samples of all weights tell.
    pub fn samples(&self) -> Result<Samples> {
        Samples::of(&self.identity(), self.weights.iter())
    }

    /// Takes fused matrices of attention apart, [`ModelWeights::split_qkv`].
    pub fn split_qkv(&mut self) {
        let Config { num_heads, num_kv_heads, head_dim, .. } = self.config;
        self.weights.split_qkv(num_heads * head_dim, num_kv_heads * head_dim);
    }

    pub fn truncate(&mut self, layers: usize) -> Result<()> {
        let all = self.config.num_layers();
        ensure!(layers <= all, "cannot keep {layers} layers: the checkpoint has {all}");
        self.config.windows.truncate(layers);
        self.config.experts.truncate(layers);
        self.weights.layers.truncate(layers);
        for role in Role::ALL {
            self.provenances[role].retain_formats(self.weights.formats(role));
        }
        Ok(())
    }
}
