//! Compiles `proto/onnx.proto` to Rust types; needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(schema)?;
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    Ok(())
}
