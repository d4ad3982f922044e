//! The summary of an export as people read it.

use std::fmt;

use super::{ExpertsSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WeightsSummary};
use crate::display::{Table, plural, shell_quote, size};
use crate::files::parent_dir;
use crate::model::{Provider, Target};
use crate::onnx::{Size, ValueInfo};
use crate::runtime;
use crate::weights::{MatrixFormat, Provenance};

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        self.hub.iter().for_each(|hub| hub.rows(&mut table));
        table.row("read", self.source_line());
        if let Some(model) = &self.model {
            model.rows(&mut table);
            if self.is_slow_here(model) {
                table.note("with AVX-512, which this processor lacks; without it experts in MXFP4 take many times as long as with --experts int8");
            }
            self.weights.rows(&mut table);
        }
        self.experts.rows(&mut table);
        self.dense.rows(&mut table, "dense");
        self.genai.iter().for_each(|genai| genai.rows(&mut table));
        self.transformers_js.iter().for_each(|web| web.rows(&mut table));
        for (label, paths) in [("written", &self.weights.written), ("reused", &self.weights.reused)]
        {
            for path in paths {
                table.row(label, path.display());
            }
        }
        let bytes = size(self.weights.bytes_written);
        table.row("done", format!("{bytes} of weights written, in {:.3} s", self.seconds));
        self.next_row(&mut table);
        table.fmt(f)
    }
}

impl Summary {
    fn source_line(&self) -> String {
        let layers = layers_in_words(self.layers, self.layers_there);
        let experts = experts_in_words(&self.experts.counts);
        let identity = match &self.fingerprint {
            Some(fingerprint) => format!("fingerprint {fingerprint}"),
            None => "headers only".to_owned(),
        };
        format!("{}, {layers}{experts}, {identity}", self.layout)
    }

    /// What can be done with it.
    fn next_row(&self, table: &mut Table) {
        if let Some(HubSummary { bytes_awaited: bytes @ 1.., .. }) = self.hub {
            let bytes = size(bytes);
            table.row("next", format!("the same command without --headers-only fetches {bytes} of weights, and the model runs"));
            return;
        }
        let staged = self.weights.written.first().or(self.weights.reused.first());
        match (&self.model, staged) {
            (Some(model), _) if self.genai.is_some() => {
                let folder = parent_dir(&model.path).display().to_string();
                table.row("try", format!("onnxruntime_genai.Model({folder:?})"));
            }
            // Python's numpy has no BF16 for a cache.
            (Some(model), _) if model.inputs.iter().any(|input| input.dtype == "bf16") => {}
            (Some(model), _) => {
                table.row("try", model.example());
            }
            (None, Some(staged)) => {
                let staged = shell_quote(staged);
                table.row("next", format!("gpt-oss-export --weights {staged} --output model.onnx"));
            }
            (None, None) => {}
        }
    }

    /// Whether ONNX Runtime's kernel for MXFP4 is the slow one on this processor.
    fn is_slow_here(&self, model: &ModelSummary) -> bool {
        let on_cpu = (model.target, model.provider) == (Target::Ort, Provider::Cpu);
        let mxfp4 = self.experts.matrices.provenance.format.contains(MatrixFormat::is_mxfp4);
        on_cpu && mxfp4 && runtime::lacks_avx512()
    }
}

impl WeightsSummary {
    /// Where the model reads them.
    fn rows(&self, table: &mut Table) {
        let made = self.written.len() + self.reused.len();
        let how = if self.in_place {
            "in place"
        } else if made >= self.files.len() {
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
            table.note(format!("not fetched {} in {files} of weights", size(*bytes_awaited)));
        }
    }
}

impl ExpertsSummary {
    /// Nothing where there is nothing to decide: in MXFP4 as they were.
    fn rows(&self, table: &mut Table) {
        let Self { matrices, mxfp4_bytes, .. } = self;
        let format = &matrices.provenance.format;
        matrices.rows(table, "experts");
        if !format.contains(|it| it != MatrixFormat::Mxfp4) {
            return;
        }
        table.row("experts", format!("{} in {format}", size(matrices.bytes)));
        if let Some(mxfp4) = mxfp4_bytes.filter(|_| !matrices.is_chosen()) {
            let times = matrices.bytes as f64 / mxfp4 as f64;
            table.note(format!("--experts mxfp4 makes them {times:.1} times smaller and much faster, bit for bit if they came from MXFP4, which it finds out"));
        }
    }
}

impl MatricesSummary {
    /// What became of the numbers, where they are not simply as they were.
    fn rows(&self, table: &mut Table, label: &'static str) {
        if self.already {
            table.row(label, format!("already in {}", self.provenance.format));
        }
        if self.converted.is_some() || !self.provenance.is_unchanged() {
            table.row(label, self.conversion());
        }
    }

    /// Whether somebody asked for the format that they have.
    fn is_chosen(&self) -> bool {
        self.already || self.converted.is_some() || !self.provenance.is_unchanged()
    }

    /// What became of the numbers, in this export or when they were staged.
    fn conversion(&self) -> String {
        let Provenance { origin, format, rounded, relative_error } = &self.provenance;
        let way = match origin == format && self.provenance.is_lossless() {
            true => format!("{origin} turned round"),
            false => format!("{origin} to {format}"),
        };
        let when = if self.converted.is_some() { "" } else { " when they were staged" };
        let numbers = self.numbers;
        match rounded {
            0 => format!("{way}{when}, lossless: all {numbers} numbers bit for bit"),
            _ => format!(
                "{way}{when}, rounded: {rounded} of {numbers} numbers, relative error {relative_error:.2e}"
            ),
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

    /// Python that runs the model on zeros of a shape that it takes, without a past.
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
        let providers = match self.provider {
            Provider::Cpu => "",
            Provider::Cuda => ", providers=[\"CUDAExecutionProvider\"]",
            Provider::WebGpu => ", providers=[\"WebGpuExecutionProvider\"]",
        };
        // Of a path that can be printed, Rust's quotes are Python's.
        let path = format!("{:?}", self.path.display().to_string());
        let inputs = inputs.join(", ");
        format!(
            "s = onnxruntime.InferenceSession({path}{providers}); s.run([\"logits\"], {{{inputs}}})"
        )
    }
}

fn layers_in_words(exported: usize, there: usize) -> String {
    if exported == there {
        plural(there, "layer")
    } else {
        format!("{exported} of {}", plural(there, "layer"))
    }
}

/// Nothing where all layers have as many: then the config says it.
fn experts_in_words(counts: &[u64]) -> String {
    match (counts.iter().min(), counts.iter().max()) {
        (Some(fewest), Some(most)) if fewest < most => format!(" of {fewest} to {most} experts"),
        _ => String::new(),
    }
}
