//! What to type in Python to try a model.

use super::{ModelSummary, Summary};
use crate::files::parent_dir;
use crate::model::Provider;

impl Summary {
    /// Python that opens the model, if it can run by itself.
    pub(super) fn example(&self) -> Option<String> {
        let model = self.model.as_ref()?;
        let awaits_weights = self.hub.as_ref().is_some_and(|hub| !hub.awaited.is_empty());
        // Nobody can paste a path that is not UTF-8.
        let can_open = model.part.is_none() && model.path.to_str().is_some();
        if awaits_weights || !can_open || self.transformers_js.is_some() {
            return None;
        }
        if self.genai.is_some() {
            let folder = parent_dir(&model.path).display().to_string();
            return Some(format!("onnxruntime_genai.Model({folder:?})"));
        }
        // Python's numpy has no BF16 for a cache.
        let has_bf16 = model.inputs.iter().any(|input| input.dtype == "bf16");
        (!has_bf16).then(|| session(model))
    }
}

/// Python that runs a model on zeros, with an empty cache.
fn session(it: &ModelSummary) -> String {
    let size = |axis: usize| it.inputs[0].shape[axis].known().unwrap_or([1, 3][axis]);
    let (batch, length) = (size(0), size(1));
    let filled = |with: u64| match (batch, length) {
        (1, 3) => format!("[[{with}, {with}, {with}]]"),
        _ => format!("[[{with}] * {length}] * {batch}"),
    };
    let mut inputs = format!("\"input_ids\": {}", filled(0));
    if it.inputs.len() > 1 {
        inputs += &format!(", \"attention_mask\": {}", filled(1));
    }
    if let Some(past) = it.inputs.get(2) {
        let [_, heads, _, width] = &past.shape[..] else { unreachable!("a cache has rank 4") };
        let dtype = if past.dtype == "f16" { "float16" } else { "float32" };
        inputs += &format!(
            ", **{{i.name: numpy.zeros(({batch}, {heads}, 0, {width}), \"{dtype}\") for i in s.get_inputs()[2:]}}"
        );
    }
    let providers = match it.options.provider {
        Provider::Cpu => "",
        Provider::Cuda => ", providers=[\"CUDAExecutionProvider\"]",
        Provider::WebGpu => ", providers=[\"WebGpuExecutionProvider\"]",
    };
    // Rust's quotes are Python's for printable paths.
    let path = format!("{:?}", it.path.display().to_string());
    format!(
        "s = onnxruntime.InferenceSession({path}{providers}); s.run([\"logits\"], {{{inputs}}})"
    )
}
