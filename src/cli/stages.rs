//! Options that make a model of some layers, or several.

use std::ops::{Range, RangeInclusive};

use anyhow::{Result, bail};
use clap::Args;
use gpt_oss_export::export::{Cut, Request};

use super::values::number;

const MANY: RangeInclusive<u64> = 1..=u64::MAX;

/// Which layers become which graphs.
#[derive(Args, Debug)]
pub struct LayerOptions {
    /// Export the first N layers only, or the part A..B of a model
    ///
    /// A part reads and writes the residual stream in the place of other layers, as a stage does.
    /// Layers count from 0, and B is excluded.
    #[arg(long, value_name = "N|A..B", value_parser = some_layers)]
    layers: Option<SomeLayers>,
    /// Cut the model into stages: NAME.stage-1-of-N.onnx and so on
    ///
    /// N stages of about equal bytes, or the layers of each, such as 0..6,6..14,14..24. Run in order,
    /// stages compute the whole model; each reads only its own weights.
    #[arg(long, value_name = "N|A..B,...", value_parser = stages, conflicts_with = "skip_onnx")]
    stages: Option<Cut>,
    /// Write only stage K, and fetch only its files from the hub
    #[arg(long, value_name = "K", value_parser = number::<usize>(MANY), requires = "stages")]
    only_stage: Option<usize>,
}

#[derive(Clone, Debug)]
enum SomeLayers {
    First(usize),
    Part(Range<usize>),
}

impl LayerOptions {
    pub fn add_to(&self, request: &mut Request) -> Result<()> {
        let Self { layers, stages, only_stage } = self;
        (request.cut, request.only_stage) = (stages.clone(), *only_stage);
        match layers {
            Some(SomeLayers::First(count)) => request.layers = Some(*count),
            Some(SomeLayers::Part(_)) if stages.is_some() => {
                bail!(
                    "--layers A..B is one part of a model, and --stages cuts all of it: pass one of them"
                );
            }
            Some(SomeLayers::Part(part)) => request.cut = Some(Cut::Part(part.clone())),
            None => {}
        }
        Ok(())
    }
}

fn some_layers(text: &str) -> Result<SomeLayers, String> {
    let count = || number(MANY)(text).map_err(|error| format!("{error}, or A..B"));
    range(text).map_or_else(|| count().map(SomeLayers::First), |it| Ok(SomeLayers::Part(it)))
}

fn stages(text: &str) -> Result<Cut, String> {
    let count =
        || number(MANY)(text).map_err(|error| format!("{error}, or layers such as 0..6,6..12"));
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges.map_or_else(|| count().map(Cut::Stages), |it| Ok(Cut::At(it)))
}

fn range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once("..")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}
