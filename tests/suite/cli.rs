//! The command line: what it prints, and its exit status.

use std::fs;

use crate::support::{
    Home, assert_contains, assert_ends, assert_starts, binary, cases, export, export_args, failure,
    fixture, printed, run, shell, staged_args, text, words,
};
use serde_json::json;

#[test]
fn prints_summary() {
    let home = Home::with("tiny");
    let arguments = ["--checkpoint", "checkpoint", "--output", "model.onnx"];
    let output = binary(&arguments).current_dir(&*home).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let summary = String::from_utf8(output.stdout).unwrap();
    for line in [
        "read     OpenAI's original layout, 3 layers, fingerprint ",
        "model    model.onnx (",
        "  input  input_ids i64 [B, T]",
        "  output logits f32 [B, T, 320]",
        "weights  987 kB in place: checkpoint/model.safetensors",
        "done     0 B of weights written, in ",
        "needs    a runtime with opset 23",
        "try      s = onnxruntime.InferenceSession(\"model.onnx\")",
    ] {
        assert_contains(&summary, line);
    }
}

/// Whether MXFP4 runs fast depends on the machine that runs a model, which may be this one.
#[test]
fn summary_tells_what_is_slow_on_this_processor() {
    let home = Home::with("tiny");
    #[cfg(target_arch = "x86_64")]
    let is_slow = !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"));
    #[cfg(not(target_arch = "x86_64"))]
    let is_slow = false;
    let warns = |options: &[&str]| {
        let summary = home.printed_summary("m", options);
        assert_contains(&summary, "needs    ");
        let start = "experts in mxfp4 are fast on processors with AVX-512";
        let advice = "for other x86 processors int4x2 is many times faster and as exact, with 10 bits a value; pass --experts int4x2\n";
        let here = summary.contains(&format!("{start}, which this one lacks\n"));
        assert_eq!(here, is_slow && summary.contains(start));
        assert_eq!(summary.contains(advice), summary.contains(start));
        here || summary.contains(&format!("{start}\n"))
    };
    for options in ["--target ort", "--target ort --keep-activations", "--for onnxruntime"] {
        assert!(warns(&words(options)), "{options}");
    }
    for options in ["--target onnx", "--target ort --experts int8", "--target ort --experts int4x2"]
    {
        assert!(!warns(&words(options)), "{options}");
    }
}

#[test]
fn summary_tells_what_to_type() {
    let home = Home::with("tiny");
    let summary = |arguments: &[&str]| {
        let source = ["--checkpoint", "checkpoint"];
        printed(binary(&[&source, arguments].concat()).current_dir(&*home))
    };
    let staged = summary(&["--save-weights", "my weights.safetensors", "--skip-onnx"]);
    let next = "next     gpt-oss-export --weights 'my weights.safetensors' --output model.onnx\n";
    assert_ends(&staged, next);
    let ort = ["--output", "m.onnx", "--target", "ort", "--dense", "int8"];
    let table = "| keep activations in float if that rounds too much | --keep-activations
        --experts int8 | keep activations in float, with experts in int4x2, if that rounds too much | --experts int4x2 --keep-activations";
    for [experts, advice, advised] in cases(table) {
        let rounding = summary(&[&ort[..], &words(experts)].concat());
        assert_contains(&rounding, &format!("{advice}; pass {advised}\n"));
        // The advice is accepted, and is not given again.
        assert!(
            !summary(&[&ort[..], &words(advised)].concat()).contains("keep activations in float")
        );
    }
}

/// What the summary says of logits, and whether a model runs exactly in float32, by definition of
/// its formats and operators.
#[test]
fn summary_tells_whether_logits_are_exact() {
    let exact = "the checkpoint's, but for the noise of float32";
    let table = "| EXACT
        --target ort | EXACT
        --for onnxruntime | EXACT
        --for genai | EXACT
        --for openvino | EXACT
        --for openvino --target ort | EXACT
        --target onnx --experts int8 | EXACT
        --target onnx --experts int4x2 | EXACT
        --target ort --experts int4x2 | EXACT
        --target ort --experts nvfp4 | EXACT
        --target onnx --experts f32 --dense f32 | EXACT
        --target ort --experts int8 | differ from the checkpoint's: onnxruntime quantizes activations to 8 bits with integer weights, unless activations are kept in float
        --target ort --experts int4 --keep-activations | differ from the checkpoint's: the values of experts are rounded
        --target ort --dense int8 | those of dense matrices are rounded; onnxruntime quantizes activations to 8 bits
        --target onnx --experts int4 --dense int8 | differ from the checkpoint's: the values of experts are rounded; those of dense matrices are rounded
        --compute f16 | differ from the checkpoint's: it computes in f16
        --compute bf16 | differ from the checkpoint's: it computes in bf16
        --target ort --compute f16 | differ from the checkpoint's: it computes in f16
        --for cuda | differ from the checkpoint's: it computes in f16
        --for cuda --compute bf16 | differ from the checkpoint's: it computes in bf16
        --for cuda --experts int8 | differ from the checkpoint's: it computes in f16
        --for webgpu | the values of experts are rounded; it computes in f16; onnxruntime may quantize activations to 8 bits
        --for webgpu --experts int8 --compute f32 | differ from the checkpoint's: onnxruntime may quantize activations to 8 bits with integer experts, depending on the GPU";
    for [options, expected] in cases(table) {
        let home = Home::with("tiny-128");
        let ids = json!({"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}).to_string();
        fs::write(home.join("checkpoint/generation_config.json"), ids).unwrap();
        let printed = home.printed_summary("m", &words(options));
        let line = printed.lines().find(|line| line.starts_with("logits ")).unwrap();
        assert_contains(line, &expected.replace("EXACT", exact));
        let hint = "INFERENCE_PRECISION_HINT";
        assert_eq!(printed.contains(hint), options == "--for openvino", "{printed}");
    }
}

#[test]
fn quiet_prints_nothing_and_json_one_object() {
    let home = Home::new();
    let (tiny, model) = (fixture("tiny"), home.join("deep/er/model.onnx"));
    let output = run(&export_args(&tiny, &model, &["--quiet"]));
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let summary = export(&export_args(&tiny, &model, &[]));
    let outputs = json!([{"name": "logits", "dtype": "f32", "shape": ["B", "T", 320]}]);
    assert_eq!(summary["model"]["outputs"], outputs);
    assert_eq!(summary["weights"]["bytes_written"], 0, "the file of the first run is reused");
}

#[test]
fn dynamic_axes_override_fixed_ones() {
    let home = Home::with("tiny");
    for (options, shape) in [
        (&["--batch-size", "2"][..], json!([2, "T"])),
        (&["--seq-len", "9"], json!(["B", 9])),
        (&["--batch-size", "2", "--dynamic-b", "--seq-len", "9"], json!(["B", 9])),
        (&["--batch-size", "2", "--dynamic-seq", "--seq-len", "9"], json!([2, "T"])),
    ] {
        let (_, summary) = home.export("model", options);
        assert_eq!(summary["model"]["inputs"][0]["shape"], shape);
    }
}

#[test]
fn wrong_usage_has_status_2() {
    let table = "| required arguments were not provided
        --checkpoint TINY | --output
        --checkpoint TINY --weights TINY --output m.onnx | cannot be used with
        --checkpoint TINY --output model.bin | expected a file name that ends in .onnx
        --checkpoint TINY --save-weights w.bin --skip-onnx | ends in .safetensors
        --checkpoint TINY --skip-onnx | --save-weights
        --checkpoint TINY --skip-onnx --save-weights w.safetensors --output m.onnx | cannot be used with
        --checkpoint TINY --output m.onnx --adapter-layout plain | required arguments were not provided
        --checkpoint TINY --output m.onnx --adapter a --adapter-layout square | invalid value
        --weights w.safetensors --output m.onnx --download-dir d | cannot be used with
        --weights w.safetensors --output m.onnx --offline | cannot be used with
        --weights w.safetensors --output m.onnx --headers-only | cannot be used with
        verify m.onnx --checkpoint TINY --tolerance -1 | such as 1e-4
        --checkpoint TINY --output m.onnx --layers 0 | expected a whole number from 1
        verify m.onnx | --checkpoint
        verify m.onnx --checkpoint TINY --tokens 0 | expected a whole number from 1 to 1048576
        verify m.onnx --checkpoint TINY --seed x | expected a whole number from 0
        generate m.onnx --prompt a --seed 1 | --temperature
        verify m.onnx --checkpoint TINY --decode 1.5 | expected a whole number from 0
        --checkpoint TINY --output m.onnx --batch-size two | expected a whole number from 1 to 65536
        verify m.onnx --checkpoint TINY --tolerance nan | such as 1e-4
        --checkpoint TINY verify m.onnx | cannot be used with
        --checkpoint TINY --output m.onnx --seq-len 0 | --seq-len
        --checkpoint TINY --output m.onnx --external-data link | in-place";
    for [line, sentence] in cases(table) {
        let output = run(&words(&line.replace("TINY", "tests/fixtures/tiny")));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert_contains(&error, sentence);
    }
}

/// A word that is no option's gets a tip.
#[test]
fn stray_words_get_tips() {
    let table = "tiny | to export a checkpoint, pass --checkpoint tiny --output FILE.onnx
        my/tiny --output m.onnx | the checkpoint is the value of an option: --checkpoint my/tiny
        tiny -o m.onnx | the checkpoint is the value of an option: --checkpoint tiny
        hf:owner/name | to export a checkpoint, pass --checkpoint 'hf:owner/name' --output FILE.onnx
        export tiny | an export needs no command: leave out `export`
        export --checkpoint tiny --output m.onnx | an export needs no command: leave out `export`
        --checkpoint my tiny --output m.onnx | leave out `tiny`, or put quotes around a path with spaces
        --checkpoint tiny --output m.onnx export | leave out `export`
        show tiny | the command is `inspect`: inspect tiny
        list m.onnx | the command is `inspect`: inspect m.onnx
        info | the command is `inspect`: inspect PATH
        check THERE | the command is `verify`: verify THERE --checkpoint DIR
        validate m.onnx tiny | the command is `verify`: verify m.onnx --checkpoint tiny
        diff tiny m.onnx | the command is `verify`: verify m.onnx --checkpoint tiny
        run m.onnx | the command is `generate`: generate m.onnx --prompt TEXT
        chat | the command is `generate`: generate FILE.onnx --prompt TEXT
        lora my-lora m.onnx | the command is `adapter`: adapter my-lora --for m.onnx --output NAME.onnx_adapter
        adapters my-lora | the command is `adapter`: adapter my-lora --for FILE.onnx
        merge my-lora | merging is an option of an export: --checkpoint DIR --adapter my-lora --adapter-as merge
        quantize tiny m.onnx | formats are options of an export: --experts FORMAT
        convert tiny THERE | leave out `convert`
        tiny THERE | to verify a model that is there, pass verify THERE --checkpoint tiny
        --checkpoint tiny THERE | to verify a model that is there, pass verify THERE --checkpoint tiny
        THERE | to describe a model, pass inspect THERE
        convert tiny --output m.onnx | an export needs no command: leave out `convert`
        build --checkpoint=tiny --output m.onnx | an export needs no command: leave out `build`
        tiny m.onnx | to export a checkpoint, pass --checkpoint tiny --output m.onnx
        m.onnx | to describe a model, pass inspect m.onnx; to verify it, verify m.onnx --checkpoint DIR
        --checkpoint tiny m.onnx | the model is the value of an option: --output m.onnx
        --weights w.safetensors out/m.onnx | the model is the value of an option: --output out/m.onnx
        --model tiny --output m.onnx | the source is a checkpoint: --checkpoint tiny
        --model_id tiny --output m.onnx | the source is a checkpoint: --checkpoint tiny
        --model-name-or-path tiny --output m.onnx | the source is a checkpoint: --checkpoint tiny
        --checkpoint tiny --output m.onnx --past | the cache is --kv-cache
        --checkpoint tiny --output m.onnx --atol 1e-3 | the largest error of a logit is --tolerance 1e-3, with --verify
        verify m.onnx --checkpoint tiny --atol=1e-3 | the largest error of a logit is --tolerance 1e-3
        --input=tiny --output m.onnx | the source is a checkpoint: --checkpoint tiny
        inspect --checkpoint tiny | the path needs no option: inspect tiny
        inspect --weights=w.safetensors | the path needs no option: inspect w.safetensors
        inspect --output m.onnx | the path needs no option: inspect m.onnx
        inspect my tiny | `inspect` takes one path: put quotes around one with spaces
        verify m.onnx tiny | the checkpoint is an option: verify m.onnx --checkpoint tiny
        verify tiny m.onnx | the checkpoint is an option: verify m.onnx --checkpoint tiny
        verify --model m.onnx --checkpoint tiny | the model needs no option: verify m.onnx --checkpoint DIR
        verify m.onnx --weights w.safetensors | a staged weights file is a checkpoint here: --checkpoint w.safetensors
        --for genai tiny m.onnx | to export a checkpoint, pass --checkpoint tiny --output m.onnx
        tiny --for genai m.onnx | to export a checkpoint, pass --checkpoint tiny --output m.onnx
        m.onnx --kv-cache tiny | to export a checkpoint, pass --checkpoint tiny --output m.onnx
        --verify m.onnx | to verify a model that is there, pass verify m.onnx --checkpoint DIR
        --verify=m.onnx --checkpoint tiny | to verify a model that is there, pass verify m.onnx --checkpoint tiny
        --checkpoint=tiny --verify m.onnx | to verify a model that is there, pass verify m.onnx --checkpoint tiny
        --weights w.safetensors --verify m.onnx | to verify a model that is there, pass verify m.onnx --checkpoint w.safetensors
        --checkpoint tiny --output m.onnx --quantize int4 | matrices have formats: --experts FORMAT, and --dense FORMAT
        --quantization=int8 --checkpoint tiny | matrices have formats: --experts FORMAT, and --dense FORMAT
        --checkpoint tiny --output m.onnx --load-in-4bit | matrices have formats
        --checkpoint tiny --output m.onnx --dtype fp16 | weights keep their dtypes
        --checkpoint tiny --output m.onnx --precision=fp16 | weights keep their dtypes
        --checkpoint tiny --output m.onnx --device cuda | the runtime is a value of --for RUNTIME
        --checkpoint tiny --output m.onnx --opset 18 | the operators need one opset
        --checkpoint tiny --output m.onnx --task text-generation | an export has one task and one format
        --checkpoint tiny --output m.onnx --trust-remote-code | runs no code of a checkpoint
        --checkpoint tiny --output m.onnx --format onnx | an export has one task and one format
        --checkpoint tiny --output m.onnx --use-cache | the cache is --kv-cache
        --checkpoint tiny --output m.onnx --trace | `--trace` is an option of the command `verify`
        --checkpoint tiny --output m.onnx --verify --text t | `--text` is an option of the command `verify`
        --checkpoint tiny --output m.onnx --verify --seed 1 | `--seed` is an option of the command `verify`
        --checkpoint tiny --output m.onnx --scan | `--scan` is an option of the command `inspect`
        verify m.onnx --checkpoint tiny --target ort | `--target` is an option of an export, not of `verify`
        inspect m.onnx --verify | to verify a model, pass verify FILE.onnx --checkpoint DIR
        inspect tiny --experts int4 | `--experts` is an option of an export, not of `inspect`
        adapter lora --model m.onnx | the model is the value of an option: --for m.onnx
        --checkpoint tiny --output m.onnx --lora lora | an adapter is the value of an option: --adapter lora
        --checkpoint tiny --output m.onnx --cache-dir here | the folder for downloads is the value of an option: --download-dir here
        tiny inspect | the command `inspect` comes first
        tiny verify m.onnx | the command `verify` comes first
        help verfy | there is help for the commands adapter, evaluate, generate, inspect, verify
        help m.onnx | there is help for the commands adapter, evaluate, generate, inspect, verify
        verfy m.onnx | a similar subcommand exists: 'verify'
        --for cpu | a similar value exists: 'onnxruntime'
        --for ort | a similar value exists: 'onnxruntime'
        --for gpu | a similar value exists: 'cuda'
        --for browser | a similar value exists: 'transformers-js'
        --ep gpu | a similar value exists: 'cuda'
        --target onnxruntime | a similar value exists: 'ort'
        --experts q4 | a similar value exists: 'int4'
        --experts INT8 | a similar value exists: 'int8'
        --experts fp4 | a similar value exists: 'mxfp4'
        --dense 8bit | a similar value exists: 'int8'
        --compute bfloat16 | a similar value exists: 'bf16'
        --checkpoint tiny verify m.onnx | the command `verify` comes first, and has options of its own
        --layers 0 --checkpoint tiny --output m.onnx | expected a whole number from 1
        --max-length 0 --checkpoint tiny --output m.onnx | expected a whole number from 1";
    let home = Home::new();
    let there = home.join("there.onnx");
    fs::write(&there, "").unwrap();
    for [line, expected] in cases(table) {
        let [line, expected] = [line, expected].map(|it| it.replace("THERE", text(&there)));
        let output = run(&words(&line));
        assert_eq!(output.status.code(), Some(2), "{line}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_contains(&error, &expected);
        assert!(!error.contains(&format!("--output {}", text(&there))), "{error}");
        assert!(error.matches("tip:").count() <= 1, "{error}");
    }
}

/// The name of a released model alone.
#[test]
fn released_models_are_offered() {
    for name in ["gpt-oss-20b", "gpt-oss-120b"] {
        let home = Home::new();
        let line = ["--checkpoint", name, "--output", "m.onnx"];
        let sentence = crate::support::sentence(binary(&line).current_dir(&*home));
        let expected = format!(
            "there is no folder `{name}`; the released model is `openai/{name}` on the hub; pass --checkpoint openai/{name}"
        );
        assert_eq!(sentence, expected);
    }
}

/// The files of a checkpoint in the place of its folder.
#[test]
fn files_are_no_checkpoints() {
    let home = Home::with("tiny");
    let (checkpoint, model) = (home.checkpoint(), home.join("m.onnx"));
    fs::write(checkpoint.join("model.safetensors.index.json"), "{}").unwrap();
    for name in ["config.json", "model.safetensors", "model.safetensors.index.json"] {
        let file = checkpoint.join(name);
        let asked = format!("(did you mean `{}`?)", checkpoint.display());
        let verify = ["verify", text(&model), "--checkpoint", text(&file)];
        for arguments in
            [&export_args(&file, &model, &[])[..], &staged_args(&file, &model, &[]), &verify]
        {
            assert_contains(&failure(arguments), &asked);
        }
        if name != "model.safetensors" {
            assert_contains(&failure(&["inspect", text(&file)]), &asked);
        }
    }
}

#[cfg(unix)]
#[test]
fn summary_that_cannot_be_printed_is_an_error_and_no_panic() {
    let home = Home::with("tiny");
    let line = "\"$0\" --checkpoint checkpoint --output a.onnx 2>err | true; cat err";
    assert_eq!(shell(line, &home), (Some(0), String::new(), String::new()));
    let line = "\"$0\" --checkpoint checkpoint --output b.onnx > /dev/full";
    let (status, _, error) = shell(line, &home);
    assert_eq!(status, Some(1));
    let start = "error: the export succeeded, but its summary could not be printed: cannot write to standard output";
    assert_starts(&error, start);
    assert!(["a.onnx", "b.onnx"].iter().all(|name| home.join(name).exists()));
}

/// One definition serves the help, completions, the man page and the version.
#[test]
fn describes_itself() {
    let said = |arguments: &[&str]| printed(&mut binary(arguments));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(said(&["completions", shell]).contains("transformers-js"), "{shell}");
    }
    let (help, manual) = (said(&["--help"]), said(&["man"]));
    for heading in ["Source:", "Output:", "Precision:", "Graph:", "Checks:", "Examples:"] {
        assert!(help.contains(&format!("\n{heading}\n")), "{help}");
    }
    assert!(manual.starts_with(".ie") && manual.contains("transformers\\-js"), "{manual}");
    let version = said(&["--version"]);
    let expected = option_env!("GPT_OSS_EXPORT_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
    assert_eq!(version, format!("gpt-oss-export {expected}\n"));
}

#[test]
fn part_of_the_layers_is_told_beside_the_logits() {
    let home = Home::with("tiny");
    for (layers, told) in [("1", true), ("2", true), ("3", false)] {
        let printed = home.printed_summary("m", &["--layers", layers]);
        let note = format!("with its first {layers} of 3 layers alone: not those of the whole");
        assert_eq!(printed.contains(&note), told, "{printed}");
    }
}
