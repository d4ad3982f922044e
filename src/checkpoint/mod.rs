//! A checkpoint as it is opened: config and headers read and checked against
//! each other, every weight under its canonical name with a recipe.

mod assemble;
mod config;
mod files;
mod foreign;
mod keys;
mod layout;
mod nearby;
mod staged;
mod weights;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use config::{Config, Rope};
pub use files::{Headers, INDEX, USUAL, Which, shards};
pub use foreign::{among as foreign, file as foreign_file};
pub use nearby::{Meant, is_checkpoint, of_name as alike};
pub use weights::{
    AttentionWeights, ExpertWeights, LayerWeights, Linear, MlpWeights, ModelWeights,
};

use crate::files::json;
use crate::weights::{MatrixFormat, PerRole, Provenance, Role, StagedMetadata};

/// The file that says what a model computes.
pub const CONFIG: &str = "config.json";
/// No `config.json` is longer; released ones have 2 kB.
pub const LARGEST_CONFIG: u64 = 1 << 20;

/// A model that is ready to be exported: nothing but headers has been read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the model computes.
    pub config: Config,
    /// What it computes with.
    pub weights: ModelWeights,
    /// What became of the values of matrices, except for what a pending conversion rounds.
    pub provenances: PerRole<Provenance>,
    /// The layout's name, for people.
    pub layout: &'static str,
    /// How many layers it has, however many of them are kept.
    pub layers_there: usize,
}

/// Which names to overlook.
#[derive(Clone, Debug, Default)]
pub struct Leniency {
    /// Config keys.
    pub config_keys: Vec<String>,
    /// Tensors that the layout does not know.
    pub tensors: Vec<String>,
}

/// Why something is not a checkpoint that we understand.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Container(#[from] crate::container::Error),
    #[error(transparent)]
    File(#[from] crate::error::Error),
    #[error("`{file}` is not valid JSON: {reason}")]
    Json { file: String, reason: String },
    #[error("`{file}` lacks the key `{key}`")]
    MissingKey { file: String, key: String },
    #[error("`{file}`: key `{key}` must be {expected}, found {found}")]
    Key { file: String, key: String, expected: String, found: String },
    #[error(
        "`{file}` has the key `{key}`, whose meaning is unknown here; if it does not change what the model computes, pass --ignore-config-key {key}"
    )]
    UnknownKey { file: String, key: String },
    #[error("`{file}` breaks the rule that {rule}: found {found}")]
    Rule { file: String, rule: &'static str, found: String },
    #[error(
        "`{file}` breaks the rule that {what} is a multiple of 32, the length of a block: found {found}"
    )]
    Blocks { file: String, what: &'static str, found: String },
    #[error(
        "`{}` holds no experts under names that are known here{}",
        place.display(),
        tensor.as_ref().map_or_else(String::new, |name| format!("; it has `{name}`"))
    )]
    UnknownExperts { place: PathBuf, tensor: Option<String> },
    #[error(
        "the names of the tensors in `{}` begin with `{prefix}`, which a wrapper has left (peft's, torch.compile's or a larger model's): save the model that is in it, with adapters merged",
        place.display()
    )]
    Wrapped { place: PathBuf, prefix: String },
    #[error(
        "`{}` holds `{tensor}`, as a model with an adapter beside its weights has it: merge it (peft's merge_and_unload, then save_pretrained) and export the result",
        place.display()
    )]
    Unmerged { place: PathBuf, tensor: String },
    #[error("`{}` is {what}: {instead}", path.display())]
    Foreign { path: PathBuf, what: &'static str, instead: &'static str },
    #[error(
        "`{}` is a LoRA adapter's, beside a whole model: merge it (peft's merge_and_unload, then save_pretrained) and export the result, or move it away if this model is the result",
        path.display()
    )]
    Adapter { path: PathBuf },
    #[error(
        "`{file}` says that the weights are quantised by {method}, and MXFP4 as released is what can be read: {instead}"
    )]
    Quantised { file: String, method: String, instead: &'static str },
    #[error(
        "there is no folder `{}`{}: --checkpoint takes the folder that holds config.json, or owner/name of a repository on the hub",
        path.display(), did_you_mean(meant.as_deref())
    )]
    NotAFolder { path: PathBuf, meant: Option<PathBuf> },
    #[error(
        "`{}` is a file{}: --checkpoint takes the folder that holds config.json",
        path.display(), did_you_mean(meant.as_deref())
    )]
    IsFile { path: PathBuf, meant: Option<PathBuf> },
    #[error(
        "`{}` holds no {wanted}{}",
        folder.display(),
        meant.as_ref().map_or_else(String::new, nearby::Meant::to_string)
    )]
    Lacks { folder: PathBuf, wanted: &'static str, meant: Option<nearby::Meant> },
    #[error("`{}` holds {count} .safetensors files and no model.safetensors.index.json that says which to use", folder.display())]
    Ambiguous { folder: PathBuf, count: usize },
    #[error("`{}` holds both model.safetensors and a model.safetensors.index.json that names other files, and programs differ in which they read: move away what is left from another save", folder.display())]
    TwoCheckpoints { folder: PathBuf },
    #[error("`{}` names the shard {shard:?}, which is not a plain file name", index.display())]
    ShardName { index: PathBuf, shard: String },
    #[error("`{}` names the shard `{shard}`, which is not there: download it too", index.display())]
    MissingShard { index: PathBuf, shard: String },
    #[error("`{}` puts tensor `{tensor}` into `{shard}`, which does not hold it", index.display())]
    NotInShard { index: PathBuf, tensor: String, shard: String },
    #[error("tensor `{tensor}` is both in `{}` and in `{}`", first.display(), second.display())]
    TwiceStored { tensor: String, first: PathBuf, second: PathBuf },
    #[error("`{}` lacks tensor `{tensor}`", place.display())]
    MissingTensor { place: PathBuf, tensor: String },
    #[error(
        "`{}` holds tensor `{tensor}`{}, which {} not part of {layout}; if the model does without, pass --ignore-tensor {tensor}{}",
        file.display(),
        match more { 0 => String::new(), _ => format!(" and {more} more") },
        if *more == 0 { "is" } else { "are" },
        if *more == 0 { "" } else { ", or a pattern with * and ? for all" }
    )]
    UnknownTensor { file: PathBuf, tensor: String, more: usize, layout: &'static str },
    #[error("`{}` was not written by --save-weights; for a checkpoint use --checkpoint", .0.display())]
    NotStaged(PathBuf),
    #[error("there is nothing to ignore: `{place}` has no {what} `{name}` that is unknown here")]
    NothingToIgnore { place: String, what: &'static str, name: String },
    #[error("`{}` is a folder: --weights takes the file that --save-weights wrote, --checkpoint a folder", .0.display())]
    StagedFolder(PathBuf),
    #[error("the metadata of `{}` cannot be read ({reason}): stage it again", path.display())]
    StagedMetadata { path: PathBuf, reason: String },
    #[error("`{}` has weights format {found}, this version reads {}: stage it again with this version", path.display(), crate::weights::FORMAT_VERSION)]
    StagedVersion { path: PathBuf, found: u32 },
    #[error("--layers {asked} is more than the {there} layers of the checkpoint")]
    TooFewLayers { asked: usize, there: usize },
}

/// The result of opening a checkpoint.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// That a folder lacks something, pointing to OpenAI's checkpoint below it
    /// where there is one, as in the released repositories, or to what it has.
    fn lacks(folder: &Path, wanted: &'static str) -> Self {
        let meant = nearby::of_folder(folder);
        if !matches!(meant, Some(nearby::Meant::Original(_)))
            && let Some(foreign) = foreign::folder(folder)
        {
            return foreign;
        }
        Self::Lacks { folder: folder.to_owned(), wanted, meant }
    }
}

/// A question in parentheses, where there is an answer.
fn did_you_mean(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" (did you mean `{}`?)", path.display()))
}

impl Checkpoint {
    /// Opens a checkpoint's folder: `config.json` and SafeTensors beside it.
    pub fn open(folder: &Path, leniency: &Leniency) -> Result<Self> {
        Self::open_files(folder, &Which::Found, &Headers::default(), leniency)
    }

    /// The same where it is known which SafeTensors files are the checkpoint's, and
    /// some of them may not be there yet, but their headers are known.
    pub fn open_files(
        folder: &Path,
        which: &Which,
        awaited: &Headers,
        leniency: &Leniency,
    ) -> Result<Self> {
        let path = folder.to_owned();
        if folder.is_file() {
            let meant = nearby::of_file(folder);
            return Err(foreign::file(folder).unwrap_or(Error::IsFile { path, meant }));
        }
        if !folder.is_dir() {
            return Err(Error::NotAFolder { path, meant: nearby::of_name(folder) });
        }
        let path = folder.join(CONFIG);
        // A link that leads nowhere, or what may not be read, has its own sentence.
        if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Err(Error::lacks(folder, CONFIG));
        }
        if let Some(adapter) = foreign::adapter(folder) {
            return Err(adapter);
        }
        let text = json::read(&path, LARGEST_CONFIG)?;
        let file = path.display().to_string();
        let (config, dialect) = Config::read(&file, &text, &leniency.config_keys)?;
        let mut tensors = files::open_folder(folder, which, awaited)?;
        let layout = layout::detect(dialect, &tensors)?;
        let config = layout.resolve_config(config, &tensors, &file)?;
        let weights = layout.weights(&config, &mut tensors)?;
        tensors.refuse_rest(layout.name, &leniency.tensors)?;
        let (layout, layers_there) = (layout.name, config.num_layers());
        let provenances = PerRole {
            experts: Provenance::unchanged(weights.formats(Role::Experts)),
            dense: Provenance::unchanged(weights.formats(Role::Dense)),
        };
        Ok(Self { config, weights, provenances, layout, layers_there })
    }

    /// Opens a weights file that an export has written, which needs nothing
    /// else, and returns what it says of itself too.
    pub fn open_staged(path: &Path) -> Result<(Self, StagedMetadata<Config>)> {
        if path.is_dir() {
            return Err(Error::StagedFolder(path.to_owned()));
        }
        let (mut tensors, said) = staged::open(path)
            .map_err(|error| foreign::file(path).filter(|_| path.is_file()).unwrap_or(error))?;
        let layout = layout::staged(&tensors);
        let config =
            layout.resolve_config(said.config.clone(), &tensors, &path.display().to_string())?;
        let weights = layout.weights(&config, &mut tensors)?;
        tensors.refuse_rest(layout.name, &[])?;
        let (layout, layers_there) = (layout.name, config.num_layers());
        let provenances = said.provenances.clone();
        let found = PerRole {
            experts: weights.formats(Role::Experts),
            dense: weights.formats(Role::Dense),
        };
        if let Err(reason) = provenances.check(&found) {
            let (path, reason) = (path.to_owned(), reason.to_string());
            return Err(Error::StagedMetadata { path, reason });
        }
        Ok((Self { config, weights, provenances, layout, layers_there }, said))
    }

    /// Converts the matrices of a role, [`ModelWeights::convert`].
    pub fn convert(
        &mut self,
        role: Role,
        to: MatrixFormat,
        accept_rounding: bool,
    ) -> crate::error::Result<()> {
        self.weights.convert(role, to, accept_rounding)?;
        self.provenances[role].format = self.weights.formats(role);
        Ok(())
    }

    /// What identifies the model besides its weights: the config, and where matrices
    /// that are not as they were come from.
    pub fn identity(&self) -> String {
        self.config.canonical() + &self.provenances.canonical()
    }

    /// Keeps the first layers only.
    pub fn truncate(&mut self, layers: usize) -> Result<()> {
        let there = self.config.num_layers();
        if layers > there {
            return Err(Error::TooFewLayers { asked: layers, there });
        }
        self.config.windows.truncate(layers);
        self.config.experts.truncate(layers);
        self.weights.layers.truncate(layers);
        for role in Role::ALL {
            self.provenances[role].retain_formats(self.weights.formats(role));
        }
        Ok(())
    }
}
