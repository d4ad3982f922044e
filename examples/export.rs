//! An export in ten lines: `cargo run --example export CHECKPOINT FILE.onnx`.

use std::env::args_os;

use gpt_oss_export::export::{Origin, Request, export};
use gpt_oss_export::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [checkpoint, output] = [1, 2].map(|at| args_os().nth(at).expect("two paths").into());
    let request = Request::new(Origin::Checkpoint(checkpoint), output);
    let summary = export(&request, &Silent)?;
    println!("{summary}");
    Ok(())
}
