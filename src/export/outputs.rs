//! The graphs that an export writes, and the part of the model that each has.

use std::ops::Range;
use std::path::PathBuf;

use super::{Cut, Request};
use crate::checkpoint::ModelWeights;
use crate::display::plural;
use crate::error::{Result, Setting, ensure, err};
use crate::model::{ModelPart, StageNumber, cut};
use crate::onnx::ADAPTER_EXTENSION;

/// A graph to write.
pub struct PartFile {
    /// The ONNX file.
    pub path: PathBuf,
    pub part: ModelPart,
}

impl PartFile {
    /// The graphs of a model with these weights; none if weights alone are staged.
    pub fn all(request: &Request, weights: &ModelWeights) -> Result<Vec<Self>> {
        let Some(path) = &request.output else { return Ok(Vec::new()) };
        let layers = weights.layers.len();
        let stages = match &request.cut {
            None => return Ok(vec![Self { path: path.clone(), part: ModelPart::whole(layers) }]),
            Some(Cut::Part(part)) => {
                ensure!(
                    part.end <= layers,
                    "the part ends before layer {}, and the model has {}: end it with {layers} at most",
                    part.end,
                    plural(layers, "layer")
                );
                let part = ModelPart { stage: None, layers: part.clone(), all_layers: layers };
                return Ok(vec![Self { path: path.clone(), part }]);
            }
            Some(Cut::Stages(stages)) => {
                if *stages > layers {
                    let layers = plural(layers, "layer");
                    return Err(err!(
                        "a model of {layers} cannot be cut into {stages} stages: each needs a layer of its own"
                    )
                    .with_remedy(Setting::Stages, weights.layers.len().to_string()));
                }
                cut(weights, *stages)
            }
            Some(Cut::At(stages)) => {
                let end = stages.last().map_or(0, |last| last.end);
                ensure!(
                    end == layers,
                    "the stages end before layer {end}, and the model has {}: end the last stage with {layers}",
                    plural(layers, "layer")
                );
                stages.clone()
            }
        };
        let of = stages.len();
        let stage = |(number, layers_of_stage)| {
            let stage = Some(StageNumber { number, of });
            let part = ModelPart { stage, layers: layers_of_stage, all_layers: layers };
            // Some paths are not UTF-8.
            let mut name = path.file_stem().unwrap_or_default().to_owned();
            name.push(part.suffix() + ".onnx");
            Self { path: path.with_file_name(name), part }
        };
        let all = (1..).zip(stages).map(stage);
        let is_wanted = |it: &Self| {
            let number = it.part.stage.map(|it| it.number);
            request.only_stage.is_none() || request.only_stage == number
        };
        Ok(all.filter(is_wanted).collect())
    }

    /// The file of an adapter of this name beside the graph.
    pub fn adapter_path(&self, name: &str) -> PathBuf {
        self.path.with_file_name(format!("{name}{}.{ADAPTER_EXTENSION}", self.part.suffix()))
    }
}

/// Refuses cuts that no model could have.
pub fn check_cut(request: &Request) -> Result<()> {
    let Request { cut, only_stage, output, genai, transformers_js, .. } = request;
    let Some(cut) = cut else {
        ensure!(
            only_stage.is_none(),
            "one stage is asked for, and the model is not cut into stages"
        );
        return Ok(());
    };
    ensure!(
        output.is_some(),
        "parts of a model are graphs, and only weights are staged: give the file of a model"
    );
    for (asked, runtime) in [(genai, "onnxruntime-genai"), (transformers_js, "transformers.js")] {
        ensure!(
            !asked,
            "{runtime} runs a model in one graph, and not its stages: export the whole model for it"
        );
    }
    let count = match cut {
        Cut::Part(part) => {
            require_layers(part)?;
            1
        }
        Cut::Stages(count) => *count,
        Cut::At(stages) => {
            stages.iter().try_for_each(require_layers)?;
            let starts = [0].into_iter().chain(stages.iter().map(|it| it.end));
            for (expected, Range { start, end }) in starts.zip(stages) {
                ensure!(
                    *start == expected,
                    "the stage {start}..{end} begins with layer {start}, expected {expected}: stages have all layers, each once and in order"
                );
            }
            stages.len()
        }
    };
    ensure!(count > 0, "a model has at least one stage, and 0 were requested");
    if let Some(number) = only_stage {
        ensure!(
            (1..=count).contains(number),
            "there is no stage {number} of {count}: stages count from 1"
        );
    }
    Ok(())
}

fn require_layers(Range { start, end }: &Range<usize>) -> Result<()> {
    ensure!(
        start < end,
        "{start}..{end} has no layer: write the first layer, and that behind the last one"
    );
    Ok(())
}
