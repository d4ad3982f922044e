//! A LoRA adapter's folder, without its base.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::scan::{Scan, scan_stored};
use super::tensors::{Filter, ListedTensor, Selection};
use crate::adapter::{AdaptedModules, AdapterFile, ModuleForm, Part, Side};
use crate::checkpoint::{ADAPTER_WEIGHTS, IgnoredNames};
use crate::container::Header;
use crate::display::{Table, plural, size, with_thousands};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What an adapter is.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct AdapterInspection {
    pub path: PathBuf,
    /// The base that it names.
    pub base: Option<String>,
    /// The version of PEFT that wrote it, from 0.18 on.
    pub peft_version: Option<String>,
    pub bytes: u64,
    /// Number of values in all tensors.
    pub parameters: u64,
    pub dtypes: BTreeSet<String>,
    pub count: usize,
    /// What was ignored of it.
    pub ignored: IgnoredNames,
    pub modules: Vec<AdaptedModules>,
    /// Sizes of the bases that it fits, as far as shapes tell.
    pub sizes: BTreeMap<&'static str, u64>,
    pub tensors: Selection,
    /// Result of the scan, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
    /// What is told if it changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// A module of experts whose factors fit in two orders, of which an export asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<String>,
    /// Everything that keeps it from being exported, with any base.
    #[serde(skip)]
    pub refusal: Option<Error>,
}

/// Describes an adapter's folder. An adapter that is not supported has tensors alone. With
/// `progress` all values are scanned too.
pub fn inspect(
    path: &Path,
    filter: &Filter,
    ignored: &IgnoredNames,
    progress: Option<&dyn Progress>,
) -> Result<AdapterInspection> {
    let (file, mut refusal) = match AdapterFile::open(path, ignored) {
        Ok(file) => (file, None),
        Err(error) => (AdapterFile::default(), Some(error)),
    };
    let undecided = file.undecided().map(|it| it.name.clone());
    let header = Header::read(&path.join(ADAPTER_WEIGHTS));
    let tensors = header.map_err(|error| refusal.take().unwrap_or(error))?.tensors;
    let listed: Vec<ListedTensor> = tensors.iter().map(ListedTensor::stored).collect();
    if refusal.is_none() {
        refusal = file.require_finite().err();
    }
    Ok(AdapterInspection {
        path: path.to_owned(),
        modules: file.adapted_modules(),
        warning: if refusal.is_none() { file.warning(None)? } else { None },
        sizes: sizes(&file),
        ignored: file.ignored,
        base: file.config.base,
        peft_version: file.config.peft_version,
        bytes: tensors.iter().map(|tensor| tensor.data.len()).sum(),
        parameters: tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
        dtypes: tensors.iter().map(|tensor| tensor.dtype.to_string()).collect(),
        count: tensors.len(),
        scan: progress.map(|it| scan_stored(&tensors, &listed, it)).transpose()?,
        tensors: filter.apply(listed),
        undecided,
        refusal,
    })
}

/// Sizes of the base by the shapes of factors and of whole values.
fn sizes(file: &AdapterFile) -> BTreeMap<&'static str, u64> {
    let mut sizes = BTreeMap::new();
    for (module, parts) in &file.modules {
        let [a, b, whole] = [Part::A, Part::B, Part::Weight].map(|part| parts.get(&part));
        let [a, b, whole] = [a, b, whole].map(|it| it.map_or(&[][..], |tensor| &tensor.shape));
        let found = match (module.form, a, b) {
            _ if !whole.is_empty() => whole.to_vec(),
            (ModuleForm::Embedding, [_, out], [inn, _]) => vec![*out, *inn],
            (form, [.., inn], [.., out, _]) if !form.is_wrapped() => vec![*out, *inn],
            _ => continue,
        };
        sizes.extend(module.sides.iter().copied().zip(found));
    }
    for (module, parts) in file.wrapped() {
        // Of the two widths one is the hidden size: which of them, versions of PEFT differ in.
        let shapes = [Part::A, Part::B].map(|part| &*parts[&part].shape);
        let ([[ranks, first], [last, _]], Some(hidden)) = (shapes, sizes.get(&Side::Hidden)) else {
            continue;
        };
        let other = first.saturating_add(*last).saturating_sub(*hidden);
        let side = module.sides.iter().find(|side| **side != Side::Hidden);
        sizes.extend(side.filter(|_| [first, last].contains(&hidden)).map(|side| (*side, other)));
        let rank = file.config.rank(&module.name);
        sizes.extend(rank.map(|rank| (Side::Experts, ranks / rank)));
    }
    if let Some(twice) = sizes.remove(&Side::TwiceInner) {
        sizes.insert(Side::Inner, twice / 2);
    }
    sizes.into_iter().map(|(side, size)| (name(side), size)).collect()
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Vocab => "vocabulary",
        Side::Hidden => "hidden size",
        Side::Heads => "heads",
        Side::Query => "width of all query heads",
        Side::Key => "width of all key heads",
        Side::Inner | Side::TwiceInner => "intermediate size",
        Side::Experts => "experts",
    }
}

impl AdapterInspection {
    pub(super) fn describe(&self, table: &mut Table) {
        let Self { path, base, peft_version, bytes, parameters, count, .. } = self;
        let writer = peft_version.as_ref().map_or(String::new(), |it| format!(", by PEFT {it}"));
        table.row("adapter", format!("{}{writer}", path.display()));
        base.iter().for_each(|base| table.row("base", base));
        let (bytes, count) = (size(*bytes), plural(*count, "tensor"));
        let dtypes: Vec<&str> = self.dtypes.iter().map(String::as_str).collect();
        let (parameters, dtypes) = (with_thousands(*parameters), dtypes.join(" and "));
        table.row(
            "file",
            format!("{ADAPTER_WEIGHTS}: {bytes}, {count}, {parameters} parameters in {dtypes}"),
        );
        self.modules.iter().for_each(|module| table.note(module));
        let sizes =
            self.sizes.iter().map(|(name, size)| format!("{name} {}", with_thousands(*size)));
        if !self.sizes.is_empty() {
            table.row("fits", sizes.collect::<Vec<_>>().join(", "));
        }
        if let Some(module) = &self.undecided {
            table.row(
                "order",
                format!("the factors of {module} fit in two orders: an export asks for one"),
            );
        }
    }
}
