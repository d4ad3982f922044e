//! Summaries as text.

use std::fmt;

use super::{ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WeightsSummary};
use crate::display::{Table, plural, size, with_thousands};
use crate::files::parent_dir;
use crate::model::{Provider, Target};
use crate::onnx::{Size, ValueInfo};
use crate::runtime;
use crate::weights::{MatrixFormat, Provenance};

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        if self.preset.is_some() {
            table.row("preset", self.preset_changes.join(", "));
        }
        self.hub.iter().for_each(|hub| hub.rows(&mut table));
        table.row("read", self.source_line());
        if let Some(model) = &self.model {
            model.rows(&mut table);
            if self.is_slow_here(model) {
                table.note("with AVX-512, which this processor lacks: experts in MXFP4 run several times slower than in int8 without it");
            }
            self.weights.rows(&mut table);
        }
        self.experts.rows(&mut table);
        self.dense.rows(&mut table, "dense");
        if self.quantizes_activations() {
            table.note("onnxruntime quantizes activations to 8 bits beside integer weights, unless they are kept in float");
        }
        self.genai.iter().for_each(|genai| genai.rows(&mut table));
        self.transformers_js.iter().for_each(|package| package.rows(&mut table));
        for (label, paths) in [("written", &self.weights.written), ("reused", &self.weights.reused)]
        {
            paths.iter().for_each(|path| table.row(label, path.display()));
        }
        let bytes = size(self.weights.bytes_written);
        table.row("done", format!("{bytes} of weights written, in {:.3} s", self.seconds));
        self.next_row(&mut table);
        table.fmt(f)
    }
}

impl Summary {
    fn source_line(&self) -> String {
        let all = plural(self.layers_there, "layer");
        let layers = if self.layers == self.layers_there {
            all
        } else {
            format!("{} of {all}", self.layers)
        };
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

    /// What to do next.
    fn next_row(&self, table: &mut Table) {
        if let Some(HubSummary { bytes_awaited: bytes @ 1.., .. }) = self.hub {
            let bytes = size(bytes);
            table
                .row("next", format!("an export with weights fetches {bytes}, and the model runs"));
            return;
        }
        let Some(model) = &self.model else { return };
        if self.genai.is_some() {
            let folder = parent_dir(&model.path).display().to_string();
            table.row("try", format!("onnxruntime_genai.Model({folder:?})"));
        } else if model.inputs.iter().all(|input| input.dtype != "bf16") {
            // Python's numpy has no BF16 for a cache.
            table.row("try", model.example());
        }
    }

    /// Whether ONNX Runtime's MXFP4 kernel is slow on this processor.
    fn is_slow_here(&self, model: &ModelSummary) -> bool {
        let on_cpu = model.options.target == Target::Ort && model.options.provider == Provider::Cpu;
        let mxfp4 = self.experts.matrices.provenance.format.contains(MatrixFormat::is_mxfp4);
        on_cpu && mxfp4 && runtime::lacks_avx512()
    }

    fn quantizes_activations(&self) -> bool {
        let formats = [&self.experts.matrices, &self.dense].map(|it| &it.provenance.format);
        let has_integers = formats.iter().any(|it| it.contains(MatrixFormat::is_int));
        let on_cpu = |model: &ModelSummary| {
            model.options.quantizes_activations() && model.options.provider == Provider::Cpu
        };
        has_integers && self.model.as_ref().is_some_and(on_cpu)
    }
}

impl WeightsSummary {
    fn rows(&self, table: &mut Table) {
        let files = self.written.len() + self.reused.len();
        let how = if self.in_place {
            "in place"
        } else if files >= self.files.len() {
            "beside the model"
        } else {
            "in place and beside the model"
        };
        let bytes = size(self.bytes_referenced);
        table.row("weights", format!("{bytes} {how}: {}", self.files.join(", ")));
        if let Some(obstacle) = &self.obstacle {
            table.note(format!("not in place: {obstacle}"));
        }
    }
}

impl HubSummary {
    fn rows(&self, table: &mut Table) {
        let Self { source, folder, fetched, bytes_fetched, awaited, bytes_awaited } = self;
        table.row("hub", format!("{source} in {}", folder.display()));
        if fetched.is_empty() {
            table.note("nothing new fetched");
        } else {
            let files = plural(fetched.len(), "file");
            table.note(format!("fetched {} in {files}", size(*bytes_fetched)));
        }
        if !awaited.is_empty() {
            let files = plural(awaited.len(), "file");
            table.note(format!("not fetched: {} of weights in {files}", size(*bytes_awaited)));
        }
    }
}

impl ExpertsSummary {
    /// Nothing for MXFP4 as in the checkpoint.
    fn rows(&self, table: &mut Table) {
        let Self { matrices, mxfp4_bytes, .. } = self;
        let format = &matrices.provenance.format;
        matrices.rows(table, "experts");
        if !format.contains(|it| it != MatrixFormat::Mxfp4) {
            return;
        }
        let bytes = format!("{} in {format}", size(matrices.bytes));
        if matrices.is_chosen() {
            table.note(bytes);
        } else {
            table.row("experts", bytes);
        }
        if let Some(mxfp4) = mxfp4_bytes.filter(|_| !matrices.is_chosen()) {
            let times = matrices.bytes as f64 / mxfp4 as f64;
            table.note(format!("converted to mxfp4 they are {times:.1} times smaller and much faster; the conversion is exact if they came from MXFP4, and refused otherwise"));
        }
    }
}

impl MatricesSummary {
    /// Nothing for matrices as in the checkpoint.
    fn rows(&self, table: &mut Table, label: &'static str) {
        if self.already {
            table.row(label, format!("already in {}", self.provenance.format));
        }
        if self.converted.is_some() || !self.provenance.is_unchanged() {
            table.row(label, self.conversion());
        }
    }

    /// Whether the format was asked for, now or when they were staged.
    fn is_chosen(&self) -> bool {
        self.already || self.converted.is_some() || !self.provenance.is_unchanged()
    }

    fn conversion(&self) -> String {
        let Provenance { origin, format, rounded, relative_error } = &self.provenance;
        let conversion = if origin == format && self.provenance.is_lossless() {
            format!("{origin} transposed")
        } else {
            format!("{origin} to {format}")
        };
        let when = if self.converted.is_some() { "" } else { " when they were staged" };
        let [all, rounded] = [self.numbers, *rounded].map(with_thousands);
        if self.provenance.is_lossless() {
            format!("{conversion}{when}, lossless: all {all} values bit for bit")
        } else {
            format!(
                "{conversion}{when}, rounded: {rounded} of {all} values, relative error {relative_error:.2e}"
            )
        }
    }
}

impl ModelSummary {
    fn rows(&self, table: &mut Table) {
        let Self { path, opset, ir_version, .. } = self;
        let (path, bytes) = (path.display(), size(self.bytes as u64));
        table.row("model", format!("{path} ({bytes}, opset {opset}, IR {ir_version})"));
        for (kind, interfaces) in [("input ", &self.inputs), ("output", &self.outputs)] {
            for line in ValueInfo::lines(interfaces) {
                table.note(format!("{kind} {line}"));
            }
        }
        table.row("needs", self.requires);
    }

    /// Python that runs the model on zeros, with an empty cache.
    fn example(&self) -> String {
        let size = |axis: usize| match self.inputs[0].shape[axis] {
            Size::Known(size) => size,
            Size::Symbol(_) => [1, 3][axis],
        };
        let (batch, length) = (size(0), size(1));
        let filled = |with: u64| match (batch, length) {
            (1, 3) => format!("[[{with}, {with}, {with}]]"),
            _ => format!("[[{with}] * {length}] * {batch}"),
        };
        let mut inputs = vec![format!("\"input_ids\": {}", filled(0))];
        if self.inputs.len() > 1 {
            inputs.push(format!("\"attention_mask\": {}", filled(1)));
        }
        if let Some(past) = self.inputs.get(2) {
            let [_, heads, _, width] = &past.shape[..] else { unreachable!("a cache has rank 4") };
            inputs.push(format!(
                "**{{i.name: numpy.zeros(({batch}, {heads}, 0, {width}), \"{}\") for i in s.get_inputs()[2:]}}",
                if past.dtype == "f16" { "float16" } else { "float32" }
            ));
        }
        let providers = match self.options.provider {
            Provider::Cpu => "",
            Provider::Cuda => ", providers=[\"CUDAExecutionProvider\"]",
            Provider::WebGpu => ", providers=[\"WebGpuExecutionProvider\"]",
        };
        // Rust's quotes are Python's for printable paths.
        let path = format!("{:?}", self.path.display().to_string());
        let inputs = inputs.join(", ");
        format!(
            "s = onnxruntime.InferenceSession({path}{providers}); s.run([\"logits\"], {{{inputs}}})"
        )
    }
}
