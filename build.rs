//! Compiles `proto/onnx.proto` to Rust types, without protoc, and says which commit this is.

use std::env;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(schema)?;
    println!("cargo:rerun-if-changed=proto/onnx.proto");

    let version = env::var("CARGO_PKG_VERSION")?;
    let version =
        commit().map_or_else(|| version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo:rustc-env=GPT_OSS_EXPORT_VERSION={version}");
    Ok(())
}

/// The commit of the sources, where git knows them: not in a package from a registry.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // Sources that were unpacked inside another repository are not of its commit.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo:rerun-if-changed={log}");
    git(&["rev-parse", "--short=9", "HEAD"])
}
