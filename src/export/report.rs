//! The summary of an export as people read it.

use std::fmt;
use std::path::Path;

use super::{
    ExpertsSummary, GenaiSummary, HubSummary, MatricesSummary, ModelSummary, Summary, WebSummary,
    WeightsSummary,
};
use crate::display::{escape_control, plural, shell_quote, size};
use crate::files::parent_dir;
use crate::model::Provider;
use crate::model::Target;
use crate::onnx::{Size, ValueInfo};
use crate::runtime;
use crate::tokenizer;
use crate::weights::{MatrixFormat, Provenance};

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hub) = &self.hub {
            write!(f, "{hub}")?;
        }
        self.write_source(f)?;
        if let Some(model) = &self.model {
            write!(f, "{model}")?;
            if self.is_slow_here(model) {
                writeln!(
                    f,
                    "  with AVX-512, which this processor lacks; without it experts in MXFP4 take many times as long as with --experts int8"
                )?;
            }
            write!(f, "{}", self.weights)?;
        }
        write!(f, "{}", self.experts)?;
        self.dense.write(f, "dense")?;
        if let Some(genai) = &self.genai {
            write!(f, "{genai}")?;
        }
        if let Some(web) = &self.transformers_js {
            write!(f, "{web}")?;
        }
        self.write_files(f)?;
        self.write_next(f)
    }
}

impl Summary {
    fn write_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = layers_in_words(self.layers, self.layers_there);
        let experts = experts_in_words(&self.experts.counts);
        write!(f, "read     {}, {layers}{experts}", self.layout)?;
        match &self.fingerprint {
            Some(fingerprint) => writeln!(f, ", fingerprint {fingerprint}"),
            None => writeln!(f, ", headers only"),
        }
    }

    fn write_files(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = &self.weights;
        for (what, paths) in [("written", &weights.written), ("reused ", &weights.reused)] {
            for path in paths {
                writeln!(f, "{what}  {}", name(path))?;
            }
        }
        let bytes = size(weights.bytes_written);
        writeln!(f, "done     {bytes} of weights written, in {:.3} s", self.seconds)
    }

    /// What can be done with it.
    fn write_next(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(HubSummary { bytes_awaited: bytes @ 1.., .. }) = self.hub {
            let bytes = size(bytes);
            return write!(
                f,
                "next     the same command without --headers-only fetches {bytes} of weights, and the model runs"
            );
        }
        let staged = self.weights.written.first().or(self.weights.reused.first());
        match (&self.model, staged) {
            (Some(model), _) if self.genai.is_some() => {
                let folder = parent_dir(&model.path).display().to_string();
                write!(f, "try      onnxruntime_genai.Model({folder:?})")
            }
            // Python's numpy has no BF16 for a cache.
            (Some(model), _) if model.inputs.iter().any(|input| input.dtype == "bf16") => Ok(()),
            (Some(model), _) => write!(f, "try      {}", model.example()),
            (None, Some(staged)) => {
                let staged = shell_quote(staged);
                write!(f, "next     gpt-oss-export --weights {staged} --output model.onnx")
            }
            (None, None) => Ok(()),
        }
    }

    /// Whether ONNX Runtime's kernel for MXFP4 is the slow one on this processor.
    fn is_slow_here(&self, model: &ModelSummary) -> bool {
        let on_cpu = (model.target, model.provider) == (Target::Ort, Provider::Cpu);
        let mxfp4 = self.experts.matrices.provenance.format.contains(MatrixFormat::is_mxfp4);
        on_cpu && mxfp4 && runtime::lacks_avx512()
    }
}

impl fmt::Display for WeightsSummary {
    /// Where the model reads them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.written.len() + self.reused.len();
        let how = match self.in_place {
            true => "in place",
            false if made >= self.files.len() => "beside the model",
            false => "in place and beside the model",
        };
        let bytes = size(self.bytes_referenced);
        writeln!(f, "weights  {bytes} {how}: {}", escape_control(&self.files.join(", ")))?;
        match &self.obstacle {
            Some(obstacle) => writeln!(f, "  not in place: {}", escape_control(obstacle)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for HubSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, folder, fetched, bytes_fetched, awaited, bytes_awaited } = self;
        writeln!(f, "hub      {source} in {}", name(folder))?;
        match fetched.len() {
            0 => writeln!(f, "  nothing new fetched")?,
            files => {
                writeln!(f, "  fetched {} in {}", size(*bytes_fetched), plural(files, "file"))?
            }
        }
        match awaited.len() {
            0 => Ok(()),
            files => {
                let files = plural(files, "file");
                writeln!(f, "  not fetched {} in {files} of weights", size(*bytes_awaited))
            }
        }
    }
}

impl fmt::Display for ExpertsSummary {
    /// Nothing where there is nothing to decide: in MXFP4 as they were.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { matrices, mxfp4_bytes, .. } = self;
        let format = &matrices.provenance.format;
        matrices.write(f, "experts")?;
        if !format.contains(|it| it != MatrixFormat::Mxfp4) {
            return Ok(());
        }
        writeln!(f, "experts  {} in {format}", size(matrices.bytes))?;
        match mxfp4_bytes.filter(|_| !matrices.is_chosen()) {
            Some(mxfp4) => writeln!(
                f,
                "  --experts mxfp4 makes them {:.1} times smaller and much faster, bit for bit if they came from MXFP4, which it finds out",
                matrices.bytes as f64 / mxfp4 as f64
            ),
            None => Ok(()),
        }
    }
}

impl MatricesSummary {
    /// What became of the numbers, where they are not simply as they were.
    fn write(&self, f: &mut fmt::Formatter<'_>, label: &str) -> fmt::Result {
        if self.already {
            writeln!(f, "{label:8} already in {}", self.provenance.format)?;
        }
        if self.converted.is_some() || !self.provenance.is_unchanged() {
            writeln!(f, "{label:8} {}", self.conversion())?;
        }
        Ok(())
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

impl fmt::Display for ModelSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, bytes) = (name(&self.path), size(self.bytes as u64));
        writeln!(f, "model    {path} ({bytes}, opset {}, IR {})", self.opset, self.ir_version)?;
        for (kind, interfaces) in [("input ", &self.inputs), ("output", &self.outputs)] {
            for line in ValueInfo::lines(interfaces) {
                writeln!(f, "  {kind} {line}")?;
            }
        }
        writeln!(f, "needs    {}", self.requires)
    }
}

impl ModelSummary {
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

impl fmt::Display for WebSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, dtype, device, copied, missing } = self;
        writeln!(
            f,
            "web      {}: AutoModelForCausalLM.from_pretrained(…, {{ dtype: {dtype:?}, device: {device:?} }})",
            name(folder)
        )?;
        let copied = copied.iter().filter_map(|path| path.file_name()?.to_str());
        let copied: Vec<&str> = copied.collect();
        for (what, names) in [("copied", &copied), ("missing", missing)] {
            if !names.is_empty() {
                writeln!(f, "  {what} {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for GenaiSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, cache) = (name(&self.config), size(self.cache_bytes));
        let replaced = if self.replaced { ", which was another" } else { "" };
        writeln!(f, "genai    {path}{replaced}")?;
        writeln!(f, "  max_length {} (a cache of {cache})", self.max_length)?;
        let eos: Vec<String> = self.eos_token_ids.iter().map(u64::to_string).collect();
        let why = if self.is_assumed { ", as in the released models" } else { "" };
        writeln!(f, "  eos {}{why}", eos.join(", "))?;
        let copied: Vec<_> =
            self.copied.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        for (what, names) in
            [("copied", &copied), ("there", &self.there), ("missing", &self.missing)]
        {
            if !names.is_empty() {
                writeln!(f, "  {what} {}", names.join(", "))?;
            }
        }
        if self.missing.iter().any(|name| tokenizer::is_needed(name)) {
            writeln!(
                f,
                "  without the tokenizer's files beside the model onnxruntime-genai takes tokens, not text"
            )?;
        }
        Ok(())
    }
}

/// A path on a line of its own.
fn name(path: &Path) -> String {
    escape_control(&path.display().to_string())
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
