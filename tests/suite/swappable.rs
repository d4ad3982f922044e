//! Models whose adapters a runtime chooses, and the files of these: what is written, what is said,
//! what is refused.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::adapter_exports::{export_in, with_adapters};
use crate::adapters::WEIGHTS;
use crate::inspect::{inspect, printed_report};
use crate::layout_fixtures::{config, edit_file, home, in_layout, renamed};
use crate::support::{
    assert_contains, binary, cases, contents, copy_folder, fixture, model_metadata, printed,
    sentence, words,
};

pub const SWAPPABLE: &str = "--output m.onnx --adapter-as swappable";

/// Runs the command `adapter` in a folder.
pub fn adapter_in(home: &Path, arguments: &str) -> std::process::Command {
    let mut command = binary(&["adapter"]);
    command.args(words(arguments)).current_dir(home);
    command
}

#[test]
fn adapters_have_names_and_weights() {
    let home = with_adapters("tiny-hf", &["attention"]);
    copy_folder(&fixture("lora/attention"), &home.join("a=2"));
    let table = "attention | attention | 1
        attention/ | attention | 1
        attention/adapter_model.safetensors | attention | 1
        attention=0.5 | attention | 0.5
        style=attention | style | 1
        style=attention=-0.5 | style | -0.5
        style=./attention/adapter_model.safetensors=1e-1 | style | 0.1
        0.5=attention | 0.5 | 1
        a=2 | a=2 | 1
        a=2=0.5 | a=2 | 0.5
        x=a=2 | x | 1
        x=a=2=3 | x | 3";
    for [given, name, weight] in cases(table) {
        let summary = export_in(&home, &format!("{SWAPPABLE} --adapter {given}")).unwrap();
        let adapter = &summary["adapters"][0];
        let weight: f64 = weight.parse().unwrap();
        assert_eq!(
            [&adapter["name"], &adapter["weight"]],
            [&json!(name), &json!(weight)],
            "{given}"
        );
        assert_eq!(adapter["file"], json!(format!("{name}.onnx_adapter")));
        fs::remove_file(home.join(format!("{name}.onnx_adapter"))).unwrap();
    }
    copy_folder(&fixture("lora/attention"), &home.join("0.5"));
    let ambiguous = export_in(&home, &format!("{SWAPPABLE} --adapter attention=0.5")).unwrap_err();
    assert_contains(&ambiguous, "there are both `attention` and `0.5`: put ./ before the one");
    for (given, name) in [("./attention=0.5", "attention"), ("attention=./0.5", "attention")] {
        let summary = export_in(&home, &format!("{SWAPPABLE} --adapter {given}")).unwrap();
        assert_eq!(summary["adapters"][0]["name"], name);
    }
    // Inline, a name is what the model's metadata lists.
    let summary = export_in(&home, "--output m.onnx --adapter style=attention").unwrap();
    assert_eq!(summary["adapters"][0]["name"], "style");
    assert_eq!(summary["adapters"][0]["file"], Value::Null);
}

/// The paths of `swappable` in a summary or a report, with the numbers of layers.
fn changed(report: &Value) -> Vec<(String, usize)> {
    let modules = report["swappable"].as_array().into_iter().flatten();
    let of = |it: &Value| {
        let module = it["module"].as_str().unwrap().to_owned();
        (module, it["layers"].as_array().unwrap().len())
    };
    modules.map(of).collect()
}

#[test]
fn what_adapters_may_change_is_listed() {
    let home = with_adapters("tiny", &["one-parameter-each", "router-head", "embedding"]);
    let attention = "attn.q 3 attn.k 3 attn.v 3 attn.out 3";
    let table = format!(
        "| {attention}
        --adapter-modules attention | {attention}
        --adapter-modules experts | mlp.experts.gate_up 3 mlp.experts.down 3
        --adapter-modules router,lm-head --adapter-modules embedding | embedding 0 mlp.router 3 lm_head 0
        --adapter-modules all | embedding 0 {attention} mlp.router 3 mlp.experts.gate_up 3 mlp.experts.down 3 lm_head 0
        --adapter-modules all --layers 1 | embedding 0 attn.q 1 attn.k 1 attn.v 1 attn.out 1 mlp.router 1 mlp.experts.gate_up 1 mlp.experts.down 1 lm_head 0
        --adapter one-parameter-each | attn.out 3 mlp.experts.gate_up 1 mlp.experts.down 1
        --adapter router-head --adapter embedding | embedding 0 attn.q 3 mlp.router 3 lm_head 0
        --adapter router-head --adapter-modules experts | mlp.router 3 mlp.experts.gate_up 3 mlp.experts.down 3 lm_head 0"
    );
    for [options, expected] in cases(&table) {
        let summary = export_in(&home, &format!("{SWAPPABLE} {options}")).unwrap();
        let listed = words(expected)
            .chunks(2)
            .map(|it| (it[0].to_owned(), it[1].parse().unwrap()))
            .collect::<Vec<_>>();
        assert_eq!(changed(&summary["model"]), listed, "{options}");
        let report = inspect(&home.join("m.onnx"), &[]);
        assert_eq!(changed(&report), listed, "{options}");
        assert_eq!(summary["model"]["inputs"], report["inputs"]);
        assert_eq!(report["inputs"].as_array().unwrap().len(), 1);
        // It has the checkpoint's weights, and no adapter's.
        let metadata = model_metadata(&home.join("m.onnx"));
        assert_eq!(
            [&metadata["adapters"], &metadata["config"]["hidden_size"]],
            [&Value::Null, &json!(96)]
        );
        assert_eq!(report["files"].as_array().unwrap().len(), 1);
    }
    let plain = export_in(&home, "--output p.onnx").unwrap();
    assert_eq!(model_metadata(&home.join("p.onnx"))["config"], Value::Null);
    // Only where q, k and v are taken apart are there other weights.
    for (modules, is_same) in [("experts", true), ("attention", false)] {
        let summary =
            export_in(&home, &format!("{SWAPPABLE} --adapter-modules {modules}")).unwrap();
        assert_eq!(summary["fingerprint"] == plain["fingerprint"], is_same);
    }
    let bytes = |name: &str| inspect(&home.join(name), &[])["files"][0]["bytes"].clone();
    export_in(&home, &format!("{SWAPPABLE} --target ort --adapter-modules experts")).unwrap();
    assert_eq!(bytes("m.onnx"), bytes("p.onnx"));

    let arguments = words(
        "--checkpoint checkpoint --output m.onnx --target ort --adapter-as swappable --adapter one-parameter-each",
    );
    let shown = printed(binary(&arguments).current_dir(&*home));
    for line in [
        "\n  experts of layers 0-1 run in a Loop while an adapter changes them, several times slower than otherwise: the operator for experts takes no adapter\n",
        "\nswappable  runtimes may add adapters that change these, and compute the checkpoint without one\n  attn.out            layers 0-2\n  mlp.experts.gate_up layers 0\n  mlp.experts.down    layers 1\n",
        "\nlogits     the checkpoint's without an adapter, but for the noise of float32\n",
        "\nwritten    one-parameter-each.onnx_adapter\n",
    ] {
        assert_contains(&shown, line);
    }
    assert_contains(
        &printed_report(&home.join("m.onnx")),
        "\nswappable  runtimes may add adapters",
    );
}

/// The command needs the model alone, and writes what the export wrote.
#[test]
fn files_made_later_are_the_same() {
    for (base, adapters) in [
        (
            "tiny-hf",
            &[
                "attention",
                "experts",
                "experts-peft-0.19.0",
                "patterns",
                "split",
                "tinker",
                "embedding",
                "router-head",
            ][..],
        ),
        ("tiny-square", &["square"]),
    ] {
        let home = with_adapters(base, adapters);
        let given: Vec<String> = adapters.iter().map(|it| format!("--adapter {it}=0.5")).collect();
        export_in(&home, &format!("{SWAPPABLE} --target ort {}", given.join(" "))).unwrap();
        for name in adapters {
            let file = |name: &str| home.join(name).with_extension("onnx_adapter");
            let written = fs::read(home.join(format!("{name}.onnx_adapter"))).unwrap();
            let shown = printed(&mut adapter_in(
                &home,
                &format!("{name}=0.5 --for m.onnx -o later.onnx_adapter"),
            ));
            assert_contains(&shown, "adapter  later, weight 0.5, fingerprint ");
            assert_contains(&shown, "\nwritten  later.onnx_adapter");
            assert_eq!(fs::read(file("later")).unwrap(), written, "{name}");
        }
    }
    // From another layout and target, and with the weights gone unless there is a copy of some.
    let home = with_adapters("tiny", &["attention", "embedding"]);
    export_in(&home, &format!("{SWAPPABLE} --adapter-modules all --kv-cache")).unwrap();
    let arguments = "attention --for m.onnx -o one.onnx_adapter --quiet";
    assert_eq!(printed(&mut adapter_in(&home, arguments)), "");
    fs::remove_file(home.checkpoint().join("model.safetensors")).unwrap();
    let arguments = "attention --for m.onnx -o sub/two.onnx_adapter --json";
    let summary: Value = serde_json::from_str(&printed(&mut adapter_in(&home, arguments))).unwrap();
    assert_eq!(
        [&summary["name"], &summary["file"]],
        [&json!("two"), &json!("sub/two.onnx_adapter")]
    );
    let [one, two] = ["one", "sub/two"]
        .map(|it| fs::read(home.join(it).with_extension("onnx_adapter")).unwrap());
    assert!(one == two);
    let refused = sentence(&mut adapter_in(&home, "embedding --for m.onnx -o e.onnx_adapter"));
    assert_contains(
        &refused,
        "has a copy of values of `embedding.weight`, and `./checkpoint/model.safetensors`",
    );
}

/// With the first layers alone, an export and the command `adapter` decide alike: an adapter has to
/// fit the whole base, and what it changes beyond the model's layers is left out.
#[test]
fn models_of_the_first_layers_take_what_an_export_takes() {
    let home = with_adapters("tiny-hf", &["attention", "experts", "split", "whole-modules"]);
    for [folder, from, to] in
        [["more", "layers.2.", "layers.3."], ["gap", "layers.2.", "layers.9."]]
    {
        copy_folder(&fixture("lora/attention"), &home.join(folder));
        edit_file(&home.join(folder).join(WEIGHTS), |tensors| {
            *tensors = renamed(tensors, |name| name.replace(from, to));
        });
    }
    for (folder, layer) in [("late", 2), ("early", 0)] {
        copy_folder(&fixture("lora/attention"), &home.join(folder));
        edit_file(&home.join(folder).join(WEIGHTS), |tensors| {
            let name = format!("base_model.model.model.layers.{layer}.self_attn.sinks");
            tensors.insert(name, (Dtype::BF16, vec![8], vec![0; 16]));
        });
    }
    let table = "attention 1 |
        attention 2 |
        attention 3 |
        experts 1 |
        experts 2 |
        split 2 |
        late 1 |
        late 2 |
        split 1 | `split/adapter_model.safetensors` changes nothing in the model: leave it out
        late 3 | replaces values or adds biases, and a runtime can only add products of factors: `layers.2.attn.sinks`
        early 1 | replaces values or adds biases, and a runtime can only add products of factors: `layers.0.attn.sinks`
        whole-modules 1 | replaces values or adds biases
        more 1 | it adapts `model.layers.3.self_attn.k_proj`, and the given base has 3 layers; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 3 modules
        gap 2 | it adapts `model.layers.9.self_attn.k_proj`, and the given base has 3 layers";
    for [given, expected] in cases(table) {
        let (adapter, layers) = given.split_once(' ').unwrap();
        let all = format!("{SWAPPABLE} --adapter-modules all --layers {layers}");
        export_in(&home, &all).unwrap();
        let later = format!("{adapter} --for m.onnx -o later.onnx_adapter --json");
        let exported = export_in(&home, &format!("{all} --adapter {adapter}"));
        let mut command = adapter_in(&home, &later);
        if !expected.is_empty() {
            assert_contains(&exported.unwrap_err(), expected);
            assert_contains(&sentence(&mut command), expected);
            continue;
        }
        let summary: Value = serde_json::from_str(&printed(&mut command)).unwrap();
        let exported = &exported.unwrap()["adapters"][0];
        for key in ["modules", "fingerprint", "bytes"] {
            assert_eq!(summary[key], exported[key], "{given}: {key}");
        }
        let [one, other] = [adapter, "later"]
            .map(|name| fs::read(home.join(name).with_extension("onnx_adapter")).unwrap());
        assert!(one == other, "{given}");
    }
}

#[test]
fn refuses_adapters_that_cannot_be_swapped() {
    let all = ["experts", "attention", "whole-modules", "tokens", "biases", "split"];
    let home = with_adapters("tiny-hf", &all);
    copy_folder(&fixture("lora/attention"), &home.join("copy"));
    let before = contents(&home);
    let table = r"--adapter whole-modules | replaces values or adds biases, and a runtime can only add products of factors: `embedding`, `layers.0.attn.norm.scale`, `layers.0.mlp.router`
        --adapter whole-modules | and 3 more; a model can have such an adapter inline; pass --adapter-as inline
        --adapter tokens | products of factors: `embedding`, `lm_head`; a model
        --adapter biases | products of factors: `layers.0.attn.out`, `layers.0.attn.out.bias`, `layers.0.attn.q`
        --adapter tokens --adapter biases | help: all of these can be passed together: --adapter-as inline
        --adapter x=attention --adapter x=experts | adapters `attention` and `experts` both have the name `x`, and each becomes a file of its name: give them different ones; pass --adapter 'NAME=experts'
        --adapter ..=attention | adapter `attention` has the name `..`, which cannot be that of a file
        --adapter =attention | adapter `attention` has the name ``, which cannot be that of a file
        --adapter ../x=attention | there is no folder `../x=attention`
        --adapter x=nowhere | there is no folder `x=nowhere`
        --adapter attention=0 | has the weight 0, expected a number other than 0
        --adapter attention=1e300 | scales what it adds to `layers.0.attn.k` by 2e300, more than float32 holds
        --adapter split --layers 1 | `split/adapter_model.safetensors` changes nothing in the model: leave it out
        --adapter attention --for openvino | OpenVINO takes optional inputs for constants, so that adapters cannot be swapped: add one inline; pass --adapter-as inline
        --adapter experts --for cuda | execution provider `cuda` does not support an adapter of experts
        --adapter-modules experts --for webgpu | execution provider `webgpu` does not support an adapter of experts
        --adapter-modules heads | invalid value 'heads'
        --adapter attention --save-weights w.safetensors | a staged weights file holds a checkpoint without adapters";
    for [options, expected] in cases(table) {
        let found = export_in(&home, &format!("{SWAPPABLE} {options}"));
        let Err(sentence) = found else { panic!("{options}") };
        assert_contains(&sentence, expected);
        assert!(contents(&home) == before, "{options}");
    }
    for (options, expected) in [
        (
            "--output m.onnx --adapter-modules all",
            "what adapters may change is given, and only a swappable model takes others than those that it is exported with",
        ),
        (
            "--save-weights w.safetensors --skip-onnx --adapter-as swappable",
            "swappable adapters need inputs of a model, and only weights are staged",
        ),
        ("--output m.onnx --adapter-as merge", "adapters are to be merged, and none is given"),
    ] {
        assert_contains(&export_in(&home, options).unwrap_err(), expected);
    }
    // One adapter under two names is no mistake here, nor is attention on a GPU.
    export_in(
        &home,
        &format!("{SWAPPABLE} --adapter a=attention --adapter b=attention=0.5 --for cuda"),
    )
    .unwrap();
}

#[test]
fn tied_embeddings_are_not_changed() {
    let (mut config, mut tensors) = (config(), in_layout("bf16"));
    config["tie_word_embeddings"] = json!(true);
    tensors.remove("lm_head.weight");
    let home = home(&config, &tensors);
    for modules in ["lm-head", "embedding"] {
        let refused =
            export_in(&home, &format!("{SWAPPABLE} --adapter-modules {modules}")).unwrap_err();
        assert_contains(&refused, "ties its embedding to lm_head, which no adapter changes");
    }
    let summary = export_in(&home, &format!("{SWAPPABLE} --adapter-modules all")).unwrap();
    assert_eq!(changed(&summary["model"]).len(), 7);
}

#[test]
fn refuses_adapters_that_a_model_does_not_take() {
    let all = ["attention", "router-head", "whole-modules", "embedding", "experts", "dora"];
    let home = with_adapters("tiny-hf", &all);
    copy_folder(&fixture("tiny-square"), &home.join("square"));
    copy_folder(&fixture("lora/square-down"), &home.join("square-down"));
    for options in [
        "--output plain.onnx",
        "--output inline.onnx --adapter attention",
        "--output attention.onnx --adapter-as swappable",
        "--output all.onnx --adapter-as swappable --adapter-modules all",
        "--output int8.onnx --adapter-as swappable --adapter-modules all --dense int8",
    ] {
        export_in(&home, options).unwrap();
    }
    let square = [
        "--checkpoint",
        "square",
        "--output",
        "square.onnx",
        "--adapter-as",
        "swappable",
        "--adapter-modules",
        "all",
    ];
    printed(binary(&square).current_dir(&*home));
    let before = contents(&home);
    let table = "attention plain.onnx | `plain.onnx` takes no adapters: export it as a swappable model
        attention inline.onnx | `inline.onnx` takes no adapters
        attention no.onnx | there is no file `no.onnx`
        attention checkpoint/model.safetensors | is not an ONNX model
        nowhere all.onnx | there is nothing at `nowhere`
        dora all.onnx | key `use_dora` is set: DoRA
        attention=0 all.onnx | adapter `attention` has the weight 0
        experts attention.onnx | `experts/adapter_model.safetensors` changes `layers.1.mlp.experts.down`, `layers.1.mlp.experts.gate_up`, `layers.2.mlp.experts.down`, `layers.2.mlp.experts.gate_up`, for which `attention.onnx` has no inputs: export the model with inputs for these; export with --adapter-as swappable --adapter-modules attention,experts
        router-head attention.onnx | for which `attention.onnx` has no inputs: export the model with inputs for these; export with --adapter-as swappable --adapter-modules attention,router,lm-head
        whole-modules all.onnx | replaces values or adds biases, and a runtime can only add products of factors
        router-head int8.onnx | the adapter holds values of `lm_head.weight`, and `int8.onnx` holds those of its base in another format, so that nothing tells whether they differ: export the model with this adapter
        attention square.onnx | it adapts `model.layers.2.self_attn.k_proj`, and the given base has 2 layers; give the base that it was trained on, which it calls `tiny-hf-bf16`; also unfit: 3 modules
        square-down square.onnx | say which it is; pass --adapter-layout plain or --adapter-layout swapped
        attention all.onnx --ignore-tensor score.* | nothing to ignore: `attention` has no unknown key or tensor `score.*`";
    for [arguments, expected] in cases(table) {
        let (adapter, rest) = arguments.split_once(' ').unwrap();
        let arguments = format!("{adapter} -o new.onnx_adapter --for {rest}");
        assert_contains(&sentence(&mut adapter_in(&home, &arguments)), expected);
        assert!(contents(&home) == before, "{arguments}");
    }
    let output = adapter_in(&home, "attention --for all.onnx -o new.bin").output().unwrap();
    assert_contains(
        &String::from_utf8(output.stderr).unwrap(),
        "a file name that ends in .onnx_adapter",
    );
    let plain = "square-down --for square.onnx -o new.onnx_adapter --adapter-layout plain";
    printed(&mut adapter_in(&home, plain));
}
