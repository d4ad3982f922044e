//! What an export prints.

use gpt_oss_export::display::{self, Table, shell_quote};
use gpt_oss_export::export::{HubSummary, Summary};
use gpt_oss_export::verify::Report;
use serde::Serialize;

use super::remedy::{options, pass};

/// The summary of an export, and the report of its verification.
#[derive(Serialize)]
pub struct Outcome<'r> {
    #[serde(flatten)]
    pub summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<&'r Report>,
    /// Of a swappable model with each of its adapters in turn.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub adapter_verifications: &'r [Report],
}

/// The summary, with what to type next.
pub fn table(summary: &Summary) -> Table {
    let mut table = summary.table(|settings| pass(&options(settings.iter().copied())));
    let Summary { hub, model, stages, weights, .. } = summary;
    if let Some(HubSummary { bytes_awaited: bytes @ 1.., .. }) = hub {
        let bytes = display::size(*bytes);
        let next = "the same command without --headers-only fetches";
        table.row("next", format!("{next} {bytes}, and the model runs"));
    } else if let (None, [], Some(staged)) =
        (model, &stages[..], weights.written.iter().chain(&weights.reused).next())
    {
        let staged = shell_quote(&staged.display().to_string());
        table.row("next", format!("gpt-oss-export --weights {staged} --output model.onnx"));
    }
    table
}
