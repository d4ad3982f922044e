//! An export as a library call: `cargo run --example export CHECKPOINT FILE.onnx`.

use std::env::args_os;
use std::path::PathBuf;

use gpt_oss_export::error::Error;
use gpt_oss_export::export::{Request, Source, Spec, Summary, export};
use gpt_oss_export::progress::Silent;

/// Exports a checkpoint without options.
pub fn run(checkpoint: PathBuf, output: PathBuf) -> Result<Summary, Error> {
    let mut request = Request::new(Source::Checkpoint(checkpoint));
    request.output = Some(output);
    export(&Spec::resolve(request)?, &Silent)
}

fn main() -> Result<(), Error> {
    let [checkpoint, output] = [1, 2].map(|at| args_os().nth(at).expect("two paths").into());
    println!("{}", run(checkpoint, output)?);
    Ok(())
}
