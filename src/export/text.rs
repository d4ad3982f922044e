//! Summaries as text.

use std::fmt;

use super::{
    AdapterSummary, ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, PartSummary, Preset,
    Summary, WeightsSummary,
};
use crate::display::{Table, noun, plural, size, spans, with_thousands};
use crate::error::Setting;
use crate::graph::Style;
use crate::model::{Provider, SLACK, Target};
use crate::onnx::ValueInfo;
use crate::package::tokenizer::TokenizerSummary;
use crate::runtime;
use crate::tensor::ints::Bits;
use crate::weights::{FormatSet, MatrixFormat, Provenance};

/// Says, after a sentence that recommends settings, how to give them their values.
type Advice<'p> = &'p dyn Fn(&[(Setting, &str)]) -> String;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(|_| String::new()).fmt(f)
    }
}

impl Summary {
    /// The summary as text. `pass` says, after a sentence that recommends settings, how to
    /// give them their values.
    #[doc(hidden)]
    pub fn table(&self, pass: impl Fn(&[(Setting, &str)]) -> String) -> Table {
        let pass: Advice = &pass;
        let mut table = Table::default();
        if self.preset.is_some() {
            table.row("preset", self.preset_changes.join(", "));
        }
        self.hub.iter().for_each(|hub| hub_rows(&mut table, hub));
        table.row("read", self.source_line());
        self.notes.iter().for_each(|note| table.note(note));
        if self.source.is_file() {
            table.note("as it was staged, as far as lengths and samples tell: `verify` with its checkpoint compares all bytes");
        }
        if !self.ignored.is_empty() {
            table.row("ignored", &self.ignored);
        }
        self.adapters.iter().for_each(|it| adapter_rows(&mut table, it));
        let model = ModelSummary::joined(self.model.iter().chain(&self.stages));
        let model = model.as_ref();
        let ort = model.map(|it| &it.options).filter(|it| it.target == Target::Ort);
        let is_ort_on_cpu = ort.is_some_and(|it| it.provider == Provider::Cpu);
        let is_merged = self.adapter_records.iter().any(|it| it.merged);
        self.stages.iter().for_each(|it| stage_rows(&mut table, it));
        if let Some(model) = &self.model {
            model_rows(&mut table, model);
        }
        if let Some(model) = model {
            runtime_rows(&mut table, model, is_merged);
            cache_rows(&mut table, model, self.genai.is_some(), pass);
            weights_rows(&mut table, &self.weights);
        }
        // ONNX Runtime takes no MXFP4 in functions, and on a CPU alone.
        let takes_mxfp4 =
            ort.is_none_or(|it| (it.style, it.provider) == (Style::Flat, Provider::Cpu));
        let advice = takes_mxfp4.then(|| pass(&[(Setting::Experts, "mxfp4")]));
        experts_rows(&mut table, &self.experts, advice, is_ort_on_cpu);
        if is_ort_on_cpu && !is_merged {
            speed_rows(&mut table, &self.experts.matrices.provenance.format, pass);
        }
        matrices_rows(&mut table, "dense", &self.dense);
        if let Some(model) = model {
            let matrices = [&self.experts.matrices, &self.dense];
            logits_rows(&mut table, &self.whose_logits(), model, self.preset, matrices, pass);
            self.limits_of_logits(&mut table, model);
        }
        self.genai.iter().for_each(|genai| genai.rows(&mut table));
        self.transformers_js.iter().for_each(|package| package.rows(&mut table));
        self.file_rows(&mut table);
        self.example().iter().for_each(|python| table.row("try", python));
        table
    }

    /// What the model may not be meant to be, whoever reads the summary.
    pub fn warnings(&self) -> Vec<String> {
        let adapters = self.adapters.iter().filter_map(|it| it.warning.clone());
        let tokenizers = [
            self.genai.as_ref().map(|it| &it.tokenizer),
            self.transformers_js.as_ref().map(|it| &it.tokenizer),
        ];
        let tokenizers = tokenizers.into_iter().flatten().flat_map(TokenizerSummary::warnings);
        let outdated = self.outdated.iter().map(|path| {
            format!(
                "`{}` was written for the model that this one replaces: delete it, or export with the files for onnxruntime-genai",
                path.display()
            )
        });
        let zeros = self.zeros.warnings().into_iter();
        zeros.chain(adapters).chain(tokenizers).chain(outdated).collect()
    }

    /// Of what the model has the logits.
    fn whose_logits(&self) -> String {
        let apart = self.ignored.apart();
        let comma = if apart.is_empty() { "" } else { "," };
        match &self.adapter_records[..] {
            [] if self.adapters.is_empty() => format!("the checkpoint's{apart}"),
            [] => format!("the checkpoint's{apart}{comma} without an adapter"),
            adapters => {
                let noun = noun(adapters.len(), "adapter");
                let rest: String = adapters.iter().map(|it| it.ignored.apart()).collect();
                format!("those of the checkpoint{apart}{comma} with the {noun}{rest}")
            }
        }
    }

    /// What the logits do not tell of the model.
    fn limits_of_logits(&self, table: &mut Table, model: &ModelSummary) {
        if model.part.is_some() {
            table.note("of all parts of the model, run in order");
        }
        let WeightsSummary { in_place, written, reused, .. } = &self.weights;
        if *in_place && written.is_empty() && reused.is_empty() {
            table.note("weights were read in samples: only a scan by `inspect` reads all values");
        }
        let (kept, all) = (self.layers, self.layers_there);
        if kept < all {
            table.note(format!(
                "with its first {kept} of {all} layers alone: not those of the whole model"
            ));
        }
    }

    fn file_rows(&self, table: &mut Table) {
        let WeightsSummary { written, reused, unread, bytes_written, .. } = &self.weights;
        let adapter_files = self.adapters.iter().flat_map(|it| it.file.iter().chain(&it.files));
        written.iter().chain(adapter_files).for_each(|path| table.row("written", path.display()));
        reused.iter().for_each(|path| table.row("reused", path.display()));
        for path in unread.iter().map(|it| it.display()) {
            table.row("unused", format!("{path}: no model reads it any more; you may delete it"));
        }
        let bytes = size(*bytes_written);
        table.row("done", format!("{bytes} of weights written, in {:.3} s", self.seconds));
    }

    fn source_line(&self) -> String {
        let mut layers = plural(self.layers_there, "layer");
        if self.layers < self.layers_there {
            layers = format!("{} of {layers}", self.layers);
        }
        let counts = &self.experts.counts;
        let experts = match (counts.iter().min(), counts.iter().max()) {
            (Some(fewest), Some(most)) if fewest < most => {
                format!(" of {fewest} to {most} experts")
            }
            _ => String::new(),
        };
        let identity = match &self.fingerprint {
            Some(fingerprint) => format!("fingerprint {fingerprint}"),
            None => "headers only".to_owned(),
        };
        format!("{}, {layers}{experts}, {identity}", self.layout)
    }
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        adapter_rows(&mut table, self);
        let part = |it| table.row("part", format!("{it}: write a file for each other stage too"));
        self.part.iter().for_each(part);
        self.file.iter().for_each(|path| table.row("written", path.display()));
        table.fmt(f)
    }
}

fn hub_rows(table: &mut Table, it: &HubSummary) {
    table.row("hub", format!("{} in {}", it.source, it.folder.display()));
    if it.fetched.is_empty() {
        table.note("nothing new fetched");
    } else {
        let files = plural(it.fetched.len(), "file");
        table.note(format!("fetched {} in {files}", size(it.bytes_fetched)));
    }
    if !it.awaited.is_empty() {
        let files = plural(it.awaited.len(), "file");
        table.note(format!("not fetched: {} of weights in {files}", size(it.bytes_awaited)));
    }
}

fn adapter_rows(table: &mut Table, it: &AdapterSummary) {
    let base = it.base.as_ref().map_or(String::new(), |base| format!(", trained on {base}"));
    table.row("adapter", format!("{}, {}{base}", it.record, size(it.bytes)));
    it.modules.iter().for_each(|module| table.note(module));
    if it.record.merged {
        table.note("in the weights: products and sums in float64, rounded once");
    }
}

fn stage_rows(table: &mut Table, it: &ModelSummary) {
    let Some(PartSummary { part, weights_bytes, .. }) = &it.part else { return };
    let (path, bytes) = (it.path.display(), size(it.bytes as u64));
    table.row("part", format!("{path} ({bytes}): {part}, {} of weights", size(*weights_bytes)));
}

fn model_rows(table: &mut Table, it: &ModelSummary) {
    let ModelSummary { path, opset, ir_version, .. } = it;
    let (path, bytes) = (path.display(), size(it.bytes as u64));
    table.row("model", format!("{path} ({bytes}, opset {opset}, IR {ir_version})"));
    for (kind, interfaces) in [("input ", &it.inputs), ("output", &it.outputs)] {
        for line in ValueInfo::lines(interfaces) {
            table.note(format!("{kind} {line}"));
        }
    }
    if let Some(PartSummary { part, weights_bytes, .. }) = &it.part {
        table.row("part", format!("{part}, {} of weights", size(*weights_bytes)));
    }
}

/// What runs a model, or all of its stages, and how.
fn runtime_rows(table: &mut Table, it: &ModelSummary, is_merged: bool) {
    table.row("needs", it.requires);
    if !it.slowed_layers.is_empty() {
        let layers = spans(it.slowed_layers.iter().copied());
        let (when, others) = if it.swappable.is_empty() {
            ("", "the others")
        } else {
            (" while an adapter changes them", "otherwise")
        };
        let what = if is_merged { "does not read their formats" } else { "takes no adapter" };
        table.note(format!("experts of layers {layers} run in a Loop{when}, several times slower than {others}: the operator for experts {what}"));
    }
    if !it.swappable.is_empty() {
        table.row(
            "swappable",
            "runtimes may add adapters that change these, and compute the checkpoint without one",
        );
        it.swappable.iter().for_each(|module| table.note(module));
    }
}

/// Caches that keep the last tokens alone, and what a program can no longer do.
fn cache_rows(table: &mut Table, model: &ModelSummary, is_genai: bool, pass: Advice) {
    model.limited_caches.iter().for_each(|caches| table.row("cache", caches));
    if !model.limited_caches.is_empty() {
        let keep = pass(&[(Setting::SlidingCache, "full")]);
        let back = if is_genai {
            "onnxruntime-genai does not rewind longer texts".to_owned()
        } else {
            format!("up to {SLACK} tokens can be taken back: the last places of every cache")
        };
        table.note(format!("{back}; keep full caches to go back further{keep}"));
    }
}

fn weights_rows(table: &mut Table, it: &WeightsSummary) {
    let how = if it.in_place {
        "in place"
    } else if it.written.len() + it.reused.len() >= it.files.len() {
        "beside the model"
    } else {
        "in place and beside the model"
    };
    let bytes = size(it.bytes_referenced);
    table.row("weights", format!("{bytes} {how}: {}", it.files.join(", ")));
    if let Some(obstacle) = &it.obstacle {
        table.note(format!("not in place: {obstacle}"));
    }
}

/// Nothing for MXFP4 as in the checkpoint. `advice` says how to convert to MXFP4, if the model
/// can have it; `rearranges` whether the runtime makes copies of integers.
fn experts_rows(table: &mut Table, it: &ExpertsSummary, advice: Option<String>, rearranges: bool) {
    let is_chosen = matrices_rows(table, "experts", &it.matrices);
    let (format, bytes) = (&it.matrices.provenance.format, it.matrices.bytes);
    if !format.contains(|it| it != MatrixFormat::Mxfp4) {
        return;
    }
    let mut line = format!("{} in {format}", size(bytes));
    if rearranges && format.contains(|it| it.has_blocks() && !it.is_fp4()) {
        line += ", which onnxruntime rearranges in memory when it loads the model";
    }
    if is_chosen {
        return table.note(line);
    }
    table.row("experts", line);
    if let (Some(mxfp4), Some(advice)) = (it.mxfp4_bytes, advice) {
        let times = bytes as f64 / mxfp4 as f64;
        table.note(format!("converted to mxfp4 they are {times:.1} times smaller and much faster; the conversion is exact if they came from MXFP4, and refused otherwise{advice}"));
    }
}

/// Nothing for experts that are fast on all processors.
fn speed_rows(table: &mut Table, experts: &FormatSet, pass: Advice) {
    if !experts.contains(MatrixFormat::is_fp4) {
        return;
    }
    let here = if runtime::lacks_avx512() { ", which this one lacks" } else { "" };
    table.row("speed", format!("experts in {experts} are fast on processors with AVX-512{here}"));
    let advice = pass(&[(Setting::Experts, "int4x2")]);
    table.note(format!("for other x86 processors int4x2 is many times faster and as exact, with 10 bits a value{advice}"));
}

/// Nothing for matrices as in the checkpoint. Whether their format was asked for, now or when
/// they were staged.
fn matrices_rows(table: &mut Table, label: &'static str, it: &MatricesSummary) -> bool {
    let Provenance { origin, format, rounded, relative_error } = &it.provenance;
    if it.already {
        table.row(label, format!("already in {format}"));
    }
    if it.converted.is_none() && it.provenance.is_unchanged() {
        return it.already;
    }
    let is_lossless = it.provenance.is_lossless();
    let mut conversion = if origin == format && is_lossless {
        format!("{origin} transposed")
    } else {
        format!("{origin} to {format}")
    };
    if it.converted.is_none() {
        conversion += " when they were staged";
    }
    let [all, rounded] = [it.numbers, *rounded].map(with_thousands);
    conversion += &if is_lossless {
        format!(", lossless: all {all} values bit for bit")
    } else {
        format!(", rounded: {rounded} of {all} values, relative error {relative_error:.2e}")
    };
    table.row(label, conversion);
    true
}

/// How far logits can be from those of the checkpoint, or `whose` they are: which values were
/// rounded, and what is rounded while the model runs.
fn logits_rows(
    table: &mut Table,
    whose: &str,
    model: &ModelSummary,
    preset: Option<Preset>,
    [experts, dense]: [&MatricesSummary; 2],
    pass: Advice,
) {
    let mut rounded = Vec::new();
    for (matrices, what) in [(experts, "the values of experts"), (dense, "those of dense matrices")]
    {
        if !matrices.provenance.is_within_f32() {
            rounded.push(format!("{what} are rounded"));
        }
    }
    rounded.extend(model.rounding.iter().map(|clause| (*clause).to_owned()));
    table.row(
        "logits",
        if rounded.is_empty() {
            format!("{whose}, but for the noise of float32")
        } else {
            format!("differ from {whose}: {}", rounded.join("; "))
        },
    );
    if preset == Some(Preset::Openvino) && model.options.target == Target::Onnx {
        table.note("set OpenVINO's INFERENCE_PRECISION_HINT to f32: on some CPUs it computes in bf16 otherwise");
    }
    let formats = [experts, dense].map(|it| &it.provenance.format);
    let has_integers = formats.iter().any(|it| it.contains(MatrixFormat::is_int));
    if has_integers && model.options.quantizes_activations() {
        let (mut instead, mut settings) = (String::new(), vec![(Setting::KeepActivations, "")]);
        // QMoE with 8 bits has no kernel that keeps them.
        if formats[0].contains(|it| it == MatrixFormat::Int(Bits::Eight)) {
            let format = if experts.provenance.is_lossless() { "int4x2" } else { "int4" };
            instead = format!(", with experts in {format},");
            settings.insert(0, (Setting::Experts, format));
        }
        let keep = pass(&settings);
        table.note(format!("keep activations in float{instead} if that rounds too much{keep}"));
    }
}
