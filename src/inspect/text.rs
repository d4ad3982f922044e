//! Inspections as text.

use std::cmp::Reverse;
use std::fmt;
use std::path::Path;

use super::{
    CheckpointInspection, DTypeTotal, DamagedTensor, FileInspection, FolderFile, FolderInspection,
    Inspection, ListedFile, ListedTensor, ModelInspection, OtherFiles, Scan, Selection, TensorName,
    Total, ZeroTensor,
};
use crate::checkpoint::{Config, IgnoredNames};
use crate::display::{Table, listed, plural, size, with_thousands};
use crate::onnx::ValueInfo;
use crate::weights::Provenance;

/// Keys of a config that say which model it is.
const TELLING_KEYS: [&str; 12] = [
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "experts_per_token",
];

impl Inspection {
    /// What is there; the refusal of a folder says what is wrong.
    pub fn table(&self) -> Table {
        let mut table = Table::default();
        match self {
            Self::Checkpoint(it) => checkpoint(&mut table, "checkpoint", it),
            Self::Folder(it) => folder(&mut table, it),
            Self::Weights(it) => checkpoint(&mut table, "weights", it),
            Self::Tensors(FileInspection { path, bytes, count, tensors: listed, .. }) => {
                let (bytes, count) = (size(*bytes), plural(*count, "tensor"));
                table.row("file", format!("{}: {bytes}, {count}", path.display()));
                tensors(&mut table, listed);
            }
            Self::Adapter(it) => {
                it.describe(&mut table);
                ignored(&mut table, &it.ignored);
                tensors(&mut table, &it.tensors);
            }
            Self::Model(it) => model(&mut table, it),
            Self::OnnxAdapter(it) => {
                it.describe(&mut table);
                tensors(&mut table, &it.tensors);
            }
        }
        match self.scan() {
            Some(scan) => scanned(&mut table, scan),
            None if self.can_be_scanned() => table.row("scanned", "headers and samples alone"),
            None => {}
        }
        table
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table().fmt(f)
    }
}

fn folder(table: &mut Table, it: &FolderInspection) {
    table.row("folder", it.path.display());
    for FolderFile { listed, problem } in &it.files {
        let line = match problem {
            Some(problem) => format!("{}: NOT USABLE: {problem}", listed.file),
            None => listed_file(listed),
        };
        table.row("file", line);
    }
    for DTypeTotal { dtype, tensors, bytes } in &it.totals {
        table.note(format!("{dtype:9} {} in {}", size(*bytes), plural(*tensors, "tensor")));
    }
    for OtherFiles { format, names } in &it.others {
        let format = format.map_or_else(String::new, |format| format!(": {format}"));
        table.row("other", format!("{}{format}", listed(names.iter())));
    }
    tensors(table, &it.tensors);
    let value = |key: &&str| Some(format!("{key} {}", it.config.as_ref()?.get(*key)?));
    let mut values: Vec<String> = TELLING_KEYS.iter().filter_map(value).collect();
    let quantization = it.config.as_ref().and_then(|it| it.get("quantization_config"));
    let method = quantization.and_then(|it| it.get("quant_method"));
    values.extend(method.map(|method| format!("quant_method {method}")));
    if !values.is_empty() {
        table.row("config", values.join(", "));
    }
}

fn checkpoint(table: &mut Table, kind: &'static str, it: &CheckpointInspection) {
    table.row(kind, it.path.display());
    table.row("layout", format!("{}, fingerprint {}", it.layout, it.fingerprint));
    it.notes.iter().for_each(|note| table.note(note));
    ignored(table, &it.ignored);
    config(table, &it.config);
    provenance(table, "experts", &it.provenances.experts);
    provenance(table, "dense", &it.provenances.dense);
    it.files.iter().for_each(|file| table.row("file", listed_file(file)));
    totals(table, &it.totals);
    for support in &it.targets {
        let answer = match &support.refused {
            None => format!("supported; needs {}", support.requires),
            Some(reason) => format!("not supported: {reason}"),
        };
        table.row("target", format!("{}: {answer}", support.target));
    }
    let missing = match (&it.obstacle, size(it.bytes_to_write)) {
        _ if it.bytes_to_write == 0 => ", for a model in this folder or above".to_owned(),
        (Some(reason), missing) => format!(" but {missing}: {reason}"),
        (None, missing) => format!(" but {missing}"),
    };
    table.row("in place", format!("all of {}{missing}", size(it.bytes)));
    tensors(table, &it.tensors);
}

fn scanned(table: &mut Table, Scan { bytes, damaged, zero }: &Scan) {
    let shown = |it: &TensorName| format!("{}{}", it.tensor, stored(&it.stored_as));
    for DamagedTensor { name, numbers, not_finite } in damaged {
        let [wrong, all] = [*not_finite, *numbers].map(with_thousands);
        let name = shown(name);
        table.row("DAMAGED", format!("{name}: {wrong} of {all} values are infinite or NaN"));
    }
    for ZeroTensor { name, bytes, zero_bytes } in zero {
        let which = if zero_bytes == bytes {
            "all bytes".to_owned()
        } else {
            format!("{} of {} in a row", size(*zero_bytes), size(*bytes))
        };
        let name = shown(name);
        table.row("ZERO", format!("{name}: {which} are 0, as in an unfinished download"));
    }
    if !zero.is_empty() {
        table.row("next", "download the files again, unless these zeros are intended");
    }
    let result = match damaged.len() {
        0 => "all values are finite".to_owned(),
        some => format!("{} damaged", plural(some, "tensor")),
    };
    let zero = match zero.len() {
        0 => String::new(),
        some => format!(", zeros in {}", plural(some, "tensor")),
    };
    table.row("scanned", format!("{}: {result}{zero}", size(*bytes)));
}

/// What was ignored of a checkpoint or an adapter.
fn ignored(table: &mut Table, names: &IgnoredNames) {
    if !names.is_empty() {
        table.row("ignored", names);
    }
}

fn listed_file(ListedFile { file, tensors, bytes }: &ListedFile) -> String {
    format!("{file}: {}, {}", size(*bytes), plural(*tensors, "tensor"))
}

fn provenance(table: &mut Table, label: &'static str, it: &Provenance) {
    let Provenance { origin, format, rounded, relative_error } = it;
    let history = if it.is_unchanged() {
        String::new()
    } else if it.is_lossless() {
        format!(", from {origin}, lossless")
    } else {
        let rounded = with_thousands(*rounded);
        format!(", from {origin}, {rounded} values rounded, relative error {relative_error:.2e}")
    };
    table.row(label, format!("{format}{history}"));
}

fn config(table: &mut Table, config: &Config) {
    let Config { hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, .. } = config;
    let tied = if config.tied { ", embedding and lm_head tied" } else { "" };
    let layers = plural(config.num_layers(), "layer");
    let [hidden, vocab] = [*hidden_size, config.vocab_size].map(with_thousands);
    table.row("model", format!("{layers}, hidden size {hidden}, vocabulary {vocab}{tied}"));
    let sliding = config.windows.iter().flatten().count();
    let window = config.windows.iter().flatten().next().map_or_else(String::new, |window| {
        format!("; window {window} in {sliding} of {}", config.num_layers())
    });
    table.note(format!(
        "attention {num_heads} heads of {head_dim}, {num_kv_heads} for keys and values{window}"
    ));
    let (fewest, most) = (config.experts.iter().min(), config.experts.iter().max());
    let (fewest, most) = (fewest.copied().unwrap_or(0), most.copied().unwrap_or(0));
    let experts = if fewest < most { format!("{fewest} to {most}") } else { most.to_string() };
    let inner = with_thousands(*intermediate_size);
    let used = config.experts_per_token;
    table.note(format!("experts   {experts} of size {inner}, {used} for each token"));
    let rope = &config.rope;
    let yarn =
        if rope.factor > 1.0 { format!(" × {} by YaRN", rope.factor) } else { String::new() };
    table.note(format!("context   {}{yarn}, theta {}", rope.initial_context, rope.theta));
}

fn model(table: &mut Table, it: &ModelInspection) {
    let (path, onnx) = (it.path.display(), &it.onnx);
    let (bytes, version, producer) = (size(onnx.bytes), onnx.ir_version, &onnx.producer);
    let by = if producer.is_empty() { String::new() } else { format!(", by {producer}") };
    table.row("model", format!("{path}: {bytes}, IR {version}{by}"));
    let opsets = onnx.opsets.iter().map(|(domain, version)| format!("{domain} {version}"));
    table.row("opsets", opsets.collect::<Vec<_>>().join(", "));
    it.stage.iter().for_each(|part| table.row("part", part));
    it.adapters.iter().for_each(|adapter| table.row("adapter", adapter));
    if !it.swappable.is_empty() {
        table.row("swappable", "runtimes may add adapters that change these");
        it.swappable.iter().for_each(|module| table.note(module));
    }
    it.requires.iter().for_each(|requires| table.row("needs", requires));
    ignored(table, &it.ignored);
    for (kind, interfaces) in [("input ", &onnx.inputs), ("output", &onnx.outputs)] {
        for line in ValueInfo::lines(interfaces) {
            table.note(format!("{kind}    {line}"));
        }
    }
    it.limited_caches.iter().for_each(|caches| table.row("cache", caches));
    let mut operators: Vec<_> = onnx.operators.iter().collect();
    operators.sort_by_key(|(_, count)| Reverse(**count));
    let nodes = plural(operators.iter().map(|(_, count)| **count).sum(), "node");
    let operators = operators.iter().map(|(name, count)| format!("{name} {count}"));
    table.row("graph", format!("{nodes}: {}", operators.collect::<Vec<_>>().join(", ")));
    if !onnx.functions.is_empty() {
        table.row("functions", onnx.functions.join(", "));
    }
    for file in &it.files {
        let state = match (&file.problem, &file.warning) {
            (Some(problem), _) => format!("NOT USABLE: {problem}"),
            (None, Some(warning)) => format!("usable by onnxruntime alone: {warning}"),
            (None, None) => "present".to_owned(),
        };
        let ranges = it.reads.iter().filter(|it| *it.file == *Path::new(&file.listed.file)).count();
        let ranges = plural(ranges, "byte range");
        table.row("data", format!("{} in {ranges}, {state}", listed_file(&file.listed)));
    }
    it.wrong.iter().for_each(|wrong| table.row("wrong", wrong));
    totals(table, &it.totals);
    for (key, value) in &onnx.properties {
        table.row("metadata", format!("{key}: {value}"));
    }
    let state = if it.whole {
        "complete, as far as lengths and samples tell"
    } else {
        "NOT as the model expects them"
    };
    table.row("weights", state);
    tensors(table, &it.tensors);
}

fn totals(table: &mut Table, totals: &[Total]) {
    for Total { kind, tensors, bytes, dtypes } in totals {
        let dtypes: Vec<&str> = dtypes.iter().map(String::as_str).collect();
        let (bytes, tensors) = (size(*bytes), plural(*tensors, "tensor"));
        table.note(format!("{kind:9} {bytes} in {tensors}, {}", dtypes.join(" and ")));
    }
}

/// The names of a tensor in files, in brackets.
fn stored(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!(" ({one})"),
        [first, .., last] => format!(" ({first} … {last})"),
    }
}

fn tensors(table: &mut Table, Selection { pattern, tensors }: &Selection) {
    if let Some(pattern) = pattern.as_ref().filter(|_| tensors.is_empty()) {
        let is_whole = !pattern.contains(['*', '?', '[']);
        let hint = if is_whole {
            format!("; `*{pattern}*` matches parts of names")
        } else {
            String::new()
        };
        table.row("tensor", format!("no name of a tensor matches `{pattern}`{hint}"));
    }
    for ListedTensor { name, stored_as, dtype, shape, places } in tensors {
        let mut line = format!("{name} {dtype} {shape:?}");
        if let Some(first) = places.first() {
            let range = &first.range;
            line += &format!(" {} {}..{}", first.file.display(), range.start, range.end);
        }
        if places.len() > 1 {
            line += &format!(" and {} more ranges", places.len() - 1);
        }
        line += &stored(stored_as);
        table.row("tensor", line);
    }
}
