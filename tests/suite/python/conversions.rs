//! Models with converted experts compute the same logits.

use super::environment::{assert_equal, assert_exact, assert_logits, reference};
use crate::derived::{LAYOUTS, in_folder};
use crate::support::{export, export_args, export_in, fixture, stage_args, staged_args};

#[test]
fn losslessly_converted_experts_are_exact() {
    let (mut homes, mut models) = (Vec::new(), Vec::new());
    for layout in LAYOUTS {
        let home = in_folder(layout);
        let formats =
            [("mxfp4", "onnx"), ("mxfp4", "ort"), ("bf16", "ort"), ("f16", "ort"), ("f32", "ort")];
        models.extend(formats.map(|(format, target)| {
            let name = format!("{layout}-{format}-{target}");
            export_in(home.path(), &name, &["--experts", format, "--target", target]).0
        }));
        homes.push(home);
    }
    assert_logits(&models, &["2x40", "1x300"].map(reference));
}

#[test]
fn converted_staged_file_is_exact() {
    let home = in_folder("bf16");
    let [checkpoint, staged, model] =
        ["checkpoint", "w.safetensors", "model.onnx"].map(|name| home.path().join(name));
    export(&stage_args(&checkpoint, &staged, &["--experts", "mxfp4"]));
    export(&staged_args(&staged, &model, &["--target", "ort"]));
    assert_exact(&model, "2x40");
}

/// As the same layers of the released model.
#[test]
fn converted_first_layers_are_exact() {
    let home = in_folder("bf16");
    let (model, _) = export_in(home.path(), "model", &["--experts", "mxfp4", "--layers", "2"]);
    let plain = home.path().join("plain.onnx");
    export(&export_args(&fixture("tiny"), &plain, &["--layers", "2"]));
    assert_equal(&[model], &plain);
}
