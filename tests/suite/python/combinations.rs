//! Every combination of target, provider, formats, dtype and cache: it is refused with a
//! sentence, or gives a model that onnx and the operators' schemas accept. If a CPU has the
//! kernels, its logits are those of its own weights, within what its operators round.

use std::path::{Path, PathBuf};

use gpt_oss_export::export::{Request, Source, Spec, export};
use gpt_oss_export::model::{GraphOptions, Provider, Target};
use gpt_oss_export::progress::Silent;
use gpt_oss_export::tensor::DType;
use gpt_oss_export::tensor::ints::Bits;
use gpt_oss_export::weights::MatrixFormat::{self, Float, Int, Int4x2, Int8x2, Mxfp4, Nvfp4};
use serde_json::{Value, json};

use super::environment::python;
use crate::support::{Home, fixture};

const INT8: Option<MatrixFormat> = Some(Int(Bits::Eight));
const EXPERTS: [Option<MatrixFormat>; 9] = [
    None,
    Some(Mxfp4),
    Some(Nvfp4),
    INT8,
    Some(Int(Bits::Four)),
    Some(Int4x2),
    Some(Float(DType::BF16)),
    Some(Float(DType::F16)),
    Some(Float(DType::F32)),
];
const DENSE: [Option<MatrixFormat>; 8] = [
    None,
    Some(Mxfp4),
    INT8,
    Some(Int(Bits::Four)),
    Some(Int8x2),
    Some(Float(DType::BF16)),
    Some(Float(DType::F16)),
    Some(Float(DType::F32)),
];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[derive(Clone, Copy, Debug)]
struct Case {
    graph: GraphOptions,
    experts: Option<MatrixFormat>,
    dense: Option<MatrixFormat>,
}

impl Case {
    fn all() -> Vec<Self> {
        let onnx = GraphOptions::default();
        let ort = GraphOptions { target: Target::Ort, kv_cache: true, ..onnx };
        let graphs = [
            onnx,
            GraphOptions { kv_cache: true, ..onnx },
            GraphOptions { provider: Provider::WebGpu, ..onnx },
            ort,
            GraphOptions { keep_activations: true, ..ort },
            GraphOptions { provider: Provider::Cuda, ..ort },
            GraphOptions { provider: Provider::WebGpu, ..ort },
        ];
        let mut cases = Vec::new();
        for (graph, experts) in graphs.into_iter().flat_map(|it| EXPERTS.map(|format| (it, format)))
        {
            for (dense, compute) in DENSE.into_iter().flat_map(|it| DTYPES.map(|of| (it, of))) {
                cases.push(Self { graph: GraphOptions { compute, ..graph }, experts, dense });
            }
        }
        cases
    }

    /// The same weights in standard operators, which compute with the stored values in f32.
    fn exact(self) -> Self {
        Self { graph: GraphOptions::default(), ..self }
    }

    /// Whether the documents say that it is refused.
    fn is_refused(&self) -> bool {
        let Self { graph, experts, dense } = *self;
        let GraphOptions { target, provider, compute, .. } = graph;
        let refuses = match (target, provider) {
            (Target::Onnx, Provider::Cpu) => false,
            (Target::Onnx, _) => true,
            (_, Provider::Cpu) => {
                compute == DType::BF16 || (graph.keep_activations && experts == INT8)
            }
            (_, Provider::Cuda) => {
                compute == DType::F32
                    || matches!(experts, Some(Mxfp4 | Int4x2))
                    || matches!(experts, Some(Float(dtype)) if dtype != compute)
            }
            (_, Provider::WebGpu) => compute == DType::BF16 || !matches!(experts, Some(Int(_))),
        };
        refuses || dense == Some(Mxfp4) || (dense == Some(Int8x2) && provider != Provider::Cpu)
    }

    /// Whether onnxruntime's CPU provider has kernels for the graph.
    fn runs_here(&self) -> bool {
        let is_float = matches!(self.experts, Some(Float(_)));
        self.graph.compute != DType::BF16 && (self.graph.provider != Provider::Cuda || !is_float)
    }

    /// How far logits may be from those of the same weights, at most and in the mean: beside
    /// noise, other experts may be chosen.
    fn bounds(&self) -> [f64; 2] {
        let is_int = |format| matches!(format, Some(Int(_)));
        let GraphOptions { target, provider, compute, keep_activations, .. } = self.graph;
        let rounds_activations = target == Target::Ort
            && !keep_activations
            && (self.experts == INT8
                || (provider == Provider::Cpu && (is_int(self.experts) || is_int(self.dense))));
        match (rounds_activations, compute) {
            (true, _) => [3.0, 0.05],
            // Activations have 21 bits.
            (false, DType::F32) if self.dense == Some(Int8x2) => [3e-5, 4e-6],
            (false, DType::F32) => [1e-5, 2e-6],
            (false, _) => [1.0, 0.005],
        }
    }

    fn name(&self) -> String {
        let Self { graph, experts, dense } = self;
        let GraphOptions { target, provider, compute, kv_cache, keep_activations, .. } = graph;
        format!(
            "{target} {provider} {experts:?} {dense:?} {compute} {kv_cache} {keep_activations}.onnx"
        )
    }

    fn request(&self, folder: &Path) -> Request {
        let mut request = Request::new(Source::Checkpoint(fixture("tiny-128")));
        request.output = Some(folder.join(self.name()));
        (request.experts, request.dense) = (self.experts, self.dense);
        request.accept_rounding = true;
        (request.target, request.provider) = (Some(self.graph.target), Some(self.graph.provider));
        request.compute = Some(self.graph.compute);
        request.keep_activations = self.graph.keep_activations;
        request.kv_cache = self.graph.kv_cache;
        request
    }
}

#[test]
fn every_combination_is_refused_or_accurate() {
    let home = Home::new();
    let mut made: Vec<(Case, PathBuf)> = Vec::new();
    let mut wrong = Vec::new();
    for case in Case::all() {
        let outcome = Spec::resolve(case.request(&home)).and_then(|spec| export(&spec, &Silent));
        match outcome {
            Ok(_) if case.is_refused() => wrong.push(format!("{case:?} was not refused")),
            Ok(summary) => made.push((case, summary.model.unwrap().path)),
            Err(error) if case.is_refused() => {
                let sentence = error.to_string();
                if !(sentence.starts_with("execution provider `")
                    || sentence == "dense matrices cannot be converted to mxfp4")
                {
                    wrong.push(format!("{case:?}: {sentence}"));
                }
            }
            Err(error) => wrong.push(format!("{case:?}: {error}")),
        }
    }
    let request = |(case, model): &(Case, PathBuf)| {
        let like = case.runs_here().then(|| home.join(case.exact().name()));
        json!({"model": model, "like": like})
    };
    // Models of the same weights follow each other.
    made.sort_by_key(|(case, _)| case.exact().name());
    let models: Vec<Value> = made.iter().map(request).collect();
    let found = python("combinations.py", &[], &json!({"models": models}));
    for ((case, _), off) in made.iter().zip(found.as_array().unwrap()) {
        let [max, mean] = ["max", "mean"].map(|key| off[key].as_f64().unwrap());
        let [most, most_mean] = case.bounds();
        if max > most || mean > most_mean {
            wrong.push(format!("{}: max {max:.1e}, mean {mean:.1e}", case.name()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), Case::all().len(), wrong.join("\n"));
    // There are many of both.
    assert!(made.len() > 400 && made.len() < Case::all().len() - 300);
}
