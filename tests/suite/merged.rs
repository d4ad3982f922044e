//! Adapters merged into the weights: each value is the sum by the definition, rounded once, and what
//! no adapter changes stays where it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::adapter_exports::{export_in, with_adapters};
use crate::adapters::{WEIGHTS, edit_tensors};
use crate::layout_fixtures::{
    Tensor, Tensors, config, dequantized, home, in_layout, narrow, read, rows,
};
use crate::support::{
    Home, assert_contains, binary, cases, contents, copy_folder, edit_json, export, fixture,
    model_metadata, printed, text, words,
};

/// Shape and values of a tensor of floats.
fn floats((dtype, shape, data): &Tensor) -> (Vec<usize>, Vec<f64>) {
    let half = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    let values = match dtype {
        Dtype::BF16 => data.as_chunks().0.iter().map(|it| f64::from(half(it))).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it).into()).collect(),
        _ => panic!("{dtype:?}"),
    };
    (shape.clone(), values)
}

/// The values by the definition of a matrix of attention, `W + s · B · A`.
fn exact_linear(base: &Tensors, adapter: &Tensors, name: &str, scale: f64) -> Vec<f64> {
    let (shape, mut values) = floats(&base[&format!("{name}.weight")]);
    let part = |part| floats(&adapter[&format!("base_model.model.{name}.lora_{part}.weight")]);
    let ((a_shape, a), (_, b)) = (part("A"), part("B"));
    let (rank, inn) = (a_shape[0], shape[1]);
    for (at, value) in values.iter_mut().enumerate() {
        let (out, inn_at) = (at / inn, at % inn);
        let sum: f64 = (0..rank).map(|r| b[out * rank + r] * a[r * inn + inn_at]).sum();
        *value += scale * sum;
    }
    values
}

/// The same of a matrix of all experts, `[experts, out, in]`, with factors `[experts·r, in]` and
/// `[out, r·experts]`.
fn exact_experts(
    (shape, mut values): (Vec<usize>, Vec<f64>),
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Vec<f64> {
    let [experts, out, inn] = shape[..] else { panic!("{shape:?}") };
    let ((a_shape, a), (_, b)) = (floats(a), floats(b));
    let rank = a_shape[0] / experts;
    for (at, value) in values.iter_mut().enumerate() {
        let (e, o, i) = (at / (out * inn), at / inn % out, at % inn);
        let term = |r: usize| b[(o * rank + r) * experts + e] * a[(e * rank + r) * inn + i];
        *value += scale * (0..rank).map(term).sum::<f64>();
    }
    values
}

/// Whether each value is the nearest of its dtype to the exact one.
#[track_caller]
fn assert_nearest(stored: &Tensor, exact: &[f64]) {
    let (found, step) = (floats(stored).1, if stored.0 == Dtype::BF16 { 1 << 16 } else { 1 });
    assert_eq!(found.len(), exact.len());
    for (found, exact) in found.iter().zip(exact) {
        let bits = (*found as f32).to_bits();
        let neighbours = [bits.wrapping_sub(step), bits + step].map(f32::from_bits);
        let off = |value: f64| (value - exact).abs();
        let nearest =
            neighbours.iter().all(|it| off(*found) <= off(f64::from(*it)) + exact.abs() * 1e-14);
        assert!(nearest || *found == 0.0, "{found} for {exact}");
    }
}

/// The values of a matrix of the base's experts, in MXFP4.
fn experts_of(base: &Tensors, layer: usize, matrix: &str) -> (Vec<usize>, Vec<f64>) {
    let part = |part| &base[&format!("model.layers.{layer}.mlp.experts.{matrix}_proj_{part}")];
    let (shape, values) = dequantized(part("blocks"), part("scales"));
    (shape, values.into_iter().map(f64::from).collect())
}

#[test]
fn merged_values_are_rounded_once() {
    let base = read(&fixture("tiny-hf/model.safetensors"));
    let adapter = read(&fixture("lora/experts").join(WEIGHTS));
    for options in [
        "",
        "--experts bf16 --dense bf16 --accept-rounding",
        "--experts mxfp4 --accept-rounding --dense f32",
    ] {
        let home = with_adapters("tiny-hf", &["experts"]);
        let stage = "--save-weights w.safetensors --skip-onnx --adapter experts --adapter-as merge";
        let summary = export_in(&home, &format!("{stage} {options}")).unwrap();
        let staged = read(&home.join("w.safetensors"));
        let (mut error, mut squares) = (0.0, 0.0);
        for layer in 0..3 {
            for (ours, theirs) in [("q", "q"), ("k", "k"), ("v", "v"), ("out", "o")] {
                let name = format!("model.layers.{layer}.self_attn.{theirs}_proj");
                let exact = exact_linear(&base, &adapter, &name, 2.0);
                assert_nearest(&staged[&format!("layers.{layer}.attn.{ours}.weight")], &exact);
            }
            for (matrix, wrapper) in [("gate_up", "base_layer."), ("down", "")] {
                let path = format!("layers.{layer}.mlp.experts.{matrix}");
                let packed = ["blocks", "scales"].map(|part| staged.get(&format!("{path}.{part}")));
                if layer == 0 {
                    let name = format!("model.layers.0.mlp.experts.{matrix}_proj");
                    let theirs =
                        ["blocks", "scales"].map(|part| &base[&format!("{name}_{part}")].2);
                    assert_eq!(packed.map(|it| &it.unwrap().2), theirs);
                    continue;
                }
                let of = |part| {
                    let module = format!("model.layers.{layer}.mlp.experts.{wrapper}lora_{part}");
                    &adapter[&format!("base_model.model.{module}.weight")]
                };
                let exact = exact_experts(experts_of(&base, layer, matrix), of("A"), of("B"), 2.0);
                let [Some(blocks), Some(scales)] = packed else {
                    assert_nearest(&staged[&format!("{path}.weight")], &exact);
                    continue;
                };
                for (found, exact) in dequantized(blocks, scales).1.iter().zip(&exact) {
                    error += (f64::from(*found) - exact).powi(2);
                    squares += exact.powi(2);
                }
            }
        }
        let [experts, dense] = ["experts", "dense"].map(|it| &summary[it]["converted"]);
        assert_eq!([&experts["lossless"], &dense["lossless"]], [false, false], "{summary}");
        if squares > 0.0 {
            let (reported, found) =
                (experts["relative_error"].as_f64().unwrap(), f64::sqrt(error / squares));
            assert!((reported / found - 1.0).abs() < 1e-5, "{reported} {found}");
        }
    }
}

/// Rows that are no whole blocks can be merged, but not into blocks.
#[test]
fn merges_rows_of_any_length() {
    let (config, base) = narrow();
    let home = home(&config, &base);
    copy_folder(&fixture("lora/one-parameter-each"), &home.join("adapter"));
    let cut = |name: &str| name.ends_with("layers.1.mlp.experts.lora_A.weight");
    edit_tensors(&home, |tensors| {
        for (name, tensor) in tensors {
            if name.ends_with("layers.0.mlp.experts.lora_B.weight") {
                *tensor = rows(tensor, 0..240);
            } else if cut(name) {
                let narrow = |row: &[u8]| row[..120 * 4].to_vec();
                let data = tensor.2.chunks(128 * 4).flat_map(narrow).collect();
                *tensor = (tensor.0, vec![16, 120], data);
            }
        }
    });
    let stage = "--save-weights w.safetensors --skip-onnx --adapter adapter --adapter-as merge";
    let sentence = export_in(&home, &format!("{stage} --experts int8")).unwrap_err();
    assert_contains(
        &sentence,
        "`layers.1.mlp.experts.down` has rows of 120 elements, and merging into int8 needs a multiple of 32: merge it into f32",
    );
    export_in(&home, stage).unwrap();
    let (staged, adapter) =
        (read(&home.join("w.safetensors")), read(&home.join("adapter").join(WEIGHTS)));
    for (layer, matrix) in [(0, "gate_up"), (1, "down")] {
        let (shape, turned) =
            floats(&base[&format!("model.layers.{layer}.mlp.experts.{matrix}_proj")]);
        let [experts, inn, out] = shape[..] else { panic!("{shape:?}") };
        let at = |at: usize| turned[(at / (out * inn) * inn + at % inn) * out + at / inn % out];
        let values = (0..turned.len()).map(at).collect();
        let of = |part| {
            &adapter
                [&format!("base_model.model.model.layers.{layer}.mlp.experts.lora_{part}.weight")]
        };
        // `lora_alpha` is twice the rank.
        let exact = exact_experts((vec![experts, out, inn], values), of("A"), of("B"), 2.0);
        assert_nearest(&staged[&format!("layers.{layer}.mlp.experts.{matrix}.weight")], &exact);
    }
}

/// Only what an adapter changes is written; whole values that it stores are read from its file.
#[test]
fn all_else_stays_in_place() {
    let table = "attention | attn.k.weight attn.out.weight attn.q.weight attn.v.weight |
        one-parameter-each | attn.out.weight | layers.0.mlp.experts.gate_up.weight layers.1.mlp.experts.down.weight
        router-head | mlp.router.weight | lm_head.weight
        tokens | attn.q.weight | lm_head.weight embedding.weight
        embedding | attn.q.weight | embedding.weight
        biases | attn.q.weight attn.q.bias attn.out.weight attn.out.bias |
        whole-modules | attn.q.weight |
        tinker | attn.k.weight attn.out.weight attn.q.weight attn.v.weight | lm_head.weight layers.1.mlp.experts.gate_up.weight layers.1.mlp.experts.down.weight";
    for [adapter, of_layers, others] in cases(table) {
        let layers = (0..3)
            .flat_map(|n| words(of_layers).into_iter().map(move |it| format!("layers.{n}.{it}")));
        let expected: BTreeSet<String> =
            layers.chain(words(others).into_iter().map(str::to_owned)).collect();
        for base in ["tiny", "tiny-hf"] {
            let home = with_adapters(base, &[adapter]);
            let options = format!("--output m.onnx --adapter {adapter} --adapter-as merge");
            let summary = export_in(&home, &options).unwrap();
            let [file] = &summary["weights"]["written"].as_array().unwrap()[..] else {
                panic!("{summary}")
            };
            let written = read(&home.join(file.as_str().unwrap()));
            assert_eq!(written.into_keys().collect::<BTreeSet<_>>(), expected, "{adapter}");
            let listed = export(&["inspect", text(&home.join("m.onnx")), "--tensors", "*"]);
            for tensor in listed["tensors"].as_array().unwrap() {
                // Constants of the graph have none.
                let Some(place) = tensor["places"][0]["file"].as_str() else { continue };
                let folder = Path::new(place).parent().unwrap().to_str().unwrap();
                let name = tensor["name"].as_str().unwrap();
                assert_eq!(folder.is_empty(), expected.contains(name), "{name} in {place}");
                let is_whole = adapter == "whole-modules" || adapter == "biases";
                assert!(["", "checkpoint"].contains(&folder) || is_whole, "{name} in {place}");
            }
            // Again the same bytes.
            assert_eq!(export_in(&home, &options).unwrap()["weights"]["written"], json!([]));
        }
    }
}

#[test]
fn summaries_models_and_staged_files_list_merged_adapters() {
    let home = with_adapters("tiny-hf", &["experts", "attention"]);
    let shown = |options: &str| {
        let mut command = binary(&words(options));
        printed(command.current_dir(&*home))
    };
    let merge = "--checkpoint checkpoint --output m.onnx --adapter experts=0.5 --adapter-as merge";
    let exact = shown(&format!("{merge} --target ort"));
    for part in [
        ", weight 0.5, merged, fingerprint ",
        "\n  in the weights: products and sums in float64, rounded once\n",
        "\nexperts  mxfp4 to f32 and mxfp4, rounded: ",
        "\ndense    bf16 to bf16 and f32, rounded: ",
        "\nlogits   those of the checkpoint with the adapter, but for the noise of float32\n",
    ] {
        assert_contains(&exact, part);
    }
    assert!(!exact.contains("lossless") && !exact.contains("Loop"), "{exact}");
    let record = &model_metadata(&home.join("m.onnx"))["adapters"][0];
    assert_eq!([&record["merged"], &record["weight"]], [&json!(true), &json!(0.5)]);
    let inspected = printed(&mut binary(&["inspect", text(&home.join("m.onnx"))]));
    assert_contains(&inspected, "adapter   experts, weight 0.5, merged, fingerprint ");

    let rounded = shown(&format!("{merge} --target ort --experts bf16 --accept-rounding"));
    for part in [
        "\n  experts of layers 1-2 run in a Loop, several times slower than the others: the operator for experts does not read their formats\n",
        "\nlogits   differ from those of the checkpoint with the adapter: the values of experts are rounded\n",
    ] {
        assert_contains(&rounded, part);
    }

    // What a staged file holds is known later.
    shown(
        "--checkpoint checkpoint --save-weights w.safetensors --skip-onnx --adapter experts --adapter-as merge",
    );
    let staged = shown("--weights w.safetensors --output s.onnx --adapter attention=0.5");
    assert_contains(&staged, ", with merged adapters: `experts`, 3 layers");
    assert_contains(
        &staged,
        "\nlogits   those of the checkpoint with the adapters, but for the noise of float32\n",
    );
    let records = model_metadata(&home.join("s.onnx"))["adapters"].clone();
    let names = [0, 1].map(|at| (records[at]["name"].clone(), records[at]["merged"].clone()));
    assert_eq!(names, [(json!("experts"), json!(true)), (json!("attention"), Value::Null)]);
    assert_contains(&shown("inspect w.safetensors"), "with merged adapters: `experts`");
}

#[test]
fn refuses_what_cannot_be_merged() {
    let all = ["experts", "attention", "biases", "dora", "tokens"];
    let home = with_adapters("tiny-hf", &all);
    let no_bias = home_without_biases();
    let table = "experts --experts bf16 | `layers.1.mlp.experts.gate_up` with its adapter does not fit bf16 exactly: | --accept-rounding
        experts --experts mxfp4 | with its adapter does not fit mxfp4 exactly: | merge it into f32, or accept the rounding; pass --accept-rounding
        attention --dense f16 | `layers.0.attn.q` with its adapter does not fit f16 exactly: | --accept-rounding
        attention --experts bf16 | no adapter changes experts, and in merging a format is for what adapters change: leave it out, or stage the merged weights |
        experts --for cuda | with its adapter does not fit nvfp4 exactly | pass --experts nvfp4 --accept-rounding
        experts --experts int4x2 | with its adapter does not fit int4x2 exactly | --accept-rounding
        tokens=0.5 | replaces values of `embedding`, and a weight multiplies only |
        dora | key `use_dora` is set |
        attention --external-data in-place | cannot reference `checkpoint/model.safetensors` in place: | --external-data auto";
    for [options, expected, remedy] in cases(table) {
        let before = contents(&home);
        let sentence =
            export_in(&home, &format!("--output m.onnx --adapter-as merge --adapter {options}"));
        let sentence = sentence.expect_err(options);
        assert_contains(&sentence, expected);
        assert_contains(&sentence, remedy);
        assert!(contents(&home) == before, "{options}");
    }
    let sentence = export_in(&no_bias, "--output m.onnx --adapter-as merge --adapter adapter");
    assert_contains(
        &sentence.unwrap_err(),
        "an adapter adds a bias to `lm_head`, which has none in the base: it cannot be merged, add the adapter inline; pass --adapter-as inline",
    );
    export_in(&no_bias, "--output m.onnx --adapter adapter").unwrap();
    let sentence = export_in(&home, "--save-weights w.safetensors --skip-onnx --adapter experts");
    assert_contains(
        &sentence.unwrap_err(),
        "export from the staged file with its adapters, or merge them; pass --adapter-as merge",
    );
    // Kernels that read one format alone get all experts in it.
    let options = "--output w.onnx --for webgpu --adapter experts --adapter-as merge";
    let summary = export_in(&home, options).unwrap();
    assert_eq!(
        [&summary["experts"]["format"], &summary["dense"]["format"]],
        ["int4", "bf16 and f32"]
    );
    let options = "--output c.onnx --for cuda --adapter experts --adapter-as merge --experts nvfp4 --accept-rounding";
    export_in(&home, options).unwrap();
    fs::remove_file(home.join("c.onnx")).unwrap();
}

/// A base whose lm_head has no bias, as ever, and an adapter that adds one.
fn home_without_biases() -> Home {
    let home = home(&config(), &in_layout("hf"));
    edit_json(&home.join("checkpoint/config.json"), |it| {
        it["quantization_config"] = json!({"quant_method": "mxfp4"});
    });
    copy_folder(&fixture("lora/router-head"), &home.join("adapter"));
    edit_tensors(&home, |tensors| {
        let bias = (Dtype::F32, vec![320], [0, 0, 128, 63].repeat(320));
        tensors.insert("base_model.model.lm_head.lora_B.bias".to_owned(), bias);
    });
    home
}
