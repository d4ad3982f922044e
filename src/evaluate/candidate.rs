//! One of the models: what it takes, how fast it is, and how far it is from the reference.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::error::Result;
use crate::files::lossy_path;
use crate::memory;
use crate::progress::Progress;
use crate::reference::Activations;
use crate::verify::{
    Identity, Inputs, LogitComparison, ModelSession, Prediction, Stage, Subject, TextQuality,
    Trace, lap,
};
use crate::weights::{FormatSet, PerRole};

/// Tokens that are decoded one by one to measure how fast that is.
const DECODED: usize = 16;

/// One of the models.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The ONNX file, or the pattern of its stages.
    #[serde(serialize_with = "lossy_path")]
    pub model: PathBuf,
    /// `onnx` or `ort`; `None` for a model of another program.
    pub target: Option<String>,
    /// Formats of its matrices.
    pub formats: PerRole<FormatSet>,
    /// Whether it was made from the checkpoint.
    pub identity: Identity,
    /// Bytes of the graph and of the weights that it reads, each once.
    pub bytes: u64,
    /// Wall time of loading.
    pub load_seconds: f64,
    /// Growth of the process's own memory by loading, in bytes; `None` where it is not known.
    pub own_memory: Option<u64>,
    /// Tokens of a prompt in a second.
    pub prompt_speed: f64,
    /// Tokens in a second, one by one; `None` without a cache.
    pub decode_speed: Option<f64>,
    /// How well it predicts the text.
    #[serde(flatten)]
    pub quality: TextQuality,
    /// Mean KL divergence at each position of a window, in nats.
    pub kl_by_position: Vec<f64>,
    /// Relative error of the residual stream in the first window: of the embedding, then after
    /// each layer. Empty for a model that does not list its values.
    pub error_by_layer: Vec<f64>,
    /// Whether no other is both smaller and closer: the best one for some size.
    pub is_best: bool,
}

impl Candidate {
    pub(super) fn measure(
        subject: &Subject,
        inputs: &Inputs,
        expected: &Activations,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let model = &subject.model;
        let (mut clock, before) = (Instant::now(), memory::own_rss());
        let mut session = ModelSession::load(subject, inputs, Vec::new(), progress)?;
        let load_seconds = lap(&mut clock);
        let growth = |after: u64| after.saturating_sub(before.unwrap_or(after));
        let own_memory = memory::own_rss().map(growth);

        let mut comparison = LogitComparison::new(expected, inputs);
        session.run(|outputs| comparison.add(outputs))?;
        let (_, predictions) = comparison.finish()?;
        let quality = TextQuality::new(&predictions).expect("windows predict tokens");

        // One prompt, then token by token if there is a cache.
        let tokens = inputs.rows[0].len();
        let decoded = if model.signature.cache { DECODED.min(tokens / 2) } else { 0 };
        let timed = inputs.first_rows(decoded)?;
        let mut session = session.with_inputs(&timed);
        let (mut seconds, mut steps) = ([0.0; 2], timed.step_count());
        session.run(|outputs| {
            // The last steps decode.
            seconds[usize::from(steps <= decoded)] += outputs.seconds;
            steps -= 1;
            Ok(())
        })?;
        let rows = timed.rows.len();
        let speed = |tokens: usize, seconds: f64| (rows * tokens) as f64 / seconds;
        let prompt_speed = speed(tokens - decoded, seconds[0]);
        let decode_speed = (decoded > 0).then(|| speed(decoded, seconds[1]));

        let residuals = model.residuals();
        let mut error_by_layer = Vec::new();
        if let (false, Some(mut trace)) = (residuals.is_empty(), Trace::begin(&expected.residuals))
        {
            let traced = inputs.first_rows(0)?;
            let mut session = session.with_inputs(&traced).with_inner(residuals)?;
            session.run(|outputs| trace.add(outputs, &expected.residuals, &traced))?;
            error_by_layer = trace.stages.iter().map(Stage::relative_error).collect();
        }
        Ok(Self {
            model: model.path.clone(),
            target: model.metadata.as_ref().map(|it| it.options.target.to_string()),
            formats: model.formats(),
            identity: subject.identity.clone(),
            bytes: model.bytes(),
            load_seconds,
            own_memory,
            prompt_speed,
            decode_speed,
            quality,
            kl_by_position: by_position(&predictions),
            error_by_layer,
            is_best: false,
        })
    }

    /// Divergences below this one are noise of float32.
    const NO_LOSS: f64 = 1e-9;

    /// How far it is from the reference; infinite if its logits are no numbers.
    pub fn loss(&self) -> f64 {
        let mean = &self.quality.kl_divergence.mean;
        if mean.value.is_nan() { f64::INFINITY } else { mean.value.max(Self::NO_LOSS) }
    }

    /// Whether this model is at most as large and as far as another one, and better in one.
    pub fn beats(&self, other: &Self) -> bool {
        let (size, loss) = (self.bytes.cmp(&other.bytes), self.loss().total_cmp(&other.loss()));
        size.is_le() && loss.is_le() && (size.is_lt() || loss.is_lt())
    }
}

/// The mean divergence at each position of a window.
fn by_position(predictions: &[Prediction]) -> Vec<f64> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for Prediction { position, kl_divergence, .. } in predictions {
        sums.resize(sums.len().max(position.token + 1), (0.0, 0.0));
        let (sum, count) = &mut sums[position.token];
        (*sum, *count) = (*sum + kl_divergence, *count + 1.0);
    }
    sums.into_iter().map(|(sum, count)| sum / count).collect()
}
