//! An export as a library call: `cargo run --example export CHECKPOINT FILE.onnx`.

use std::env::args_os;

use gpt_oss_export::export::{Request, Source, Spec, export};
use gpt_oss_export::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [checkpoint, output] = [1, 2].map(|at| args_os().nth(at).expect("two paths").into());
    let mut request = Request::new(Source::Checkpoint(checkpoint));
    request.output = Some(output);
    let summary = export(&Spec::resolve(request)?, &Silent)?;
    println!("{summary}");
    Ok(())
}
