//! Faults planted in the exporter's own reader of checkpoints. Exporter and byte comparison share
//! it and agree on the wrong model; `verify` finds each fault because its reference reads
//! checkpoints by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::environment::onnxruntime;
use crate::layout_fixtures::{LAYOUTS, edit_tensors, in_folder, rows};
use crate::support::{Home, contents, edit_json, export_args, printed, text};

struct Fault {
    name: &'static str,
    /// A file below `src`, and a piece of it.
    file: &'static str,
    right: &'static str,
    /// What takes its place, with [`PLANTED`] as condition.
    wrong: &'static str,
    export: &'static [&'static str],
    /// The layouts where the fault cannot occur.
    spared: &'static [&'static str],
}

/// Stands for the condition under which a fault takes effect.
const PLANTED: &str = "PLANTED";

const FAULTS: [Fault; 9] = [
    Fault {
        name: "q and k exchanged",
        file: "checkpoint/layout/sources.rs",
        right: "let mut found = own.iter()",
        wrong: r#"
            let name = match name.split_at_checked(7) {
                Some(("attn.q.", part)) if PLANTED => &format!("attn.k.{part}"),
                Some(("attn.k.", part)) if PLANTED => &format!("attn.q.{part}"),
                _ => name,
            };
            let mut found = own.iter()"#,
        export: &[],
        // There they are rows of one matrix.
        spared: FUSED,
    },
    Fault {
        name: "k and v exchanged",
        file: "checkpoint/layout/sources.rs",
        right: "let mut found = own.iter()",
        wrong: r#"
            let name = match name.split_at_checked(7) {
                Some(("attn.k.", part)) if PLANTED => &format!("attn.v.{part}"),
                Some(("attn.v.", part)) if PLANTED => &format!("attn.k.{part}"),
                _ => name,
            };
            let mut found = own.iter()"#,
        export: &[],
        spared: FUSED,
    },
    Fault {
        name: "the norms of a layer exchanged",
        file: "checkpoint/layout/sources.rs",
        right: "let mut found = own.iter()",
        wrong: r#"
            let name = match name {
                "attn.norm.scale" if PLANTED => "mlp.norm.scale",
                "mlp.norm.scale" if PLANTED => "attn.norm.scale",
                _ => name,
            };
            let mut found = own.iter()"#,
        export: &[],
        spared: &[],
    },
    Fault {
        name: "gate and up exchanged",
        file: "checkpoint/layout/sources.rs",
        right: "theirs.split(' ').map(stored).collect()",
        wrong: "{
            let mut templates: Vec<String> = theirs.split(' ').map(stored).collect();
            if PLANTED { templates.reverse(); }
            templates
        }",
        export: &[],
        spared: TOGETHER,
    },
    Fault {
        name: "gate and up not interleaved",
        file: "checkpoint/layout/assemble.rs",
        right: "let recipe = if sources.alternate() {",
        wrong: "let recipe = if sources.alternate() && PLANTED {
            Recipe::Concat(ranges)
        } else if sources.alternate() {",
        export: &[],
        spared: TOGETHER,
    },
    Fault {
        name: "windows a layer late",
        file: "checkpoint/config/mod.rs",
        right: "Ok(Self { config, dialect, ignored })",
        wrong: "
            let mut config = config;
            if PLANTED { config.windows.rotate_right(1); }
            Ok(Self { config, dialect, ignored })",
        export: &[],
        spared: &[],
    },
    Fault {
        name: "swiglu_limit ignored",
        file: "checkpoint/config/mod.rs",
        right: "Ok(Self { config, dialect, ignored })",
        wrong: "
            let mut config = config;
            if PLANTED { config.swiglu_limit = 7.0; }
            Ok(Self { config, dialect, ignored })",
        export: &[],
        spared: &[],
    },
    Fault {
        name: "YaRN's factor under another dialect's key",
        file: "checkpoint/config/mod.rs",
        right: "Ok(Self { config, dialect, ignored })",
        wrong: "
            let mut config = config;
            if PLANTED { config.rope.factor = 1.0; }
            Ok(Self { config, dialect, ignored })",
        export: &[],
        spared: &[],
    },
    Fault {
        name: "exponents of scales off by one",
        file: "tensor/mxfp4/block.rs",
        right: "exponent => f32::from_bits(u32::from(exponent) << 23)",
        wrong: "exponent => f32::from_bits(u32::from(exponent + u8::from(PLANTED)) << 23)",
        export: &["--experts", "f32"],
        spared: FLOATS,
    },
];

/// Layouts with q, k and v in one matrix.
const FUSED: &[&str] = &["original", "numbers"];
/// Layouts with gate and up in one matrix.
const TOGETHER: &[&str] =
    &["original", "numbers", "hf", "bf16", "f16", "f32", "fp8", "split", "mixed"];
/// Layouts without MXFP4.
const FLOATS: &[&str] = &["numbers", "bf16", "f16", "f32", "fp8", "split", "linears", "mlx"];

/// Query heads.
const HEADS: usize = 8;
/// Query heads that share a key head.
const GROUP: usize = 4;
/// Width of a head.
const WIDTH: usize = 32;

/// Copies files that are not there yet or differ, so that a second build has little to do.
fn copy(from: &Path, to: &Path, edit: &impl Fn(&Path, String) -> String) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to, edit);
            continue;
        }
        let text = edit(&from, fs::read_to_string(&from).unwrap());
        if fs::read_to_string(&to).ok().as_ref() != Some(&text) {
            fs::write(to, text).unwrap();
        }
    }
}

/// A binary with all faults, of which the variable `PLANTED` chooses one.
fn faulty_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty");
        let target = folder.join("../..");
        let source = root.join("src");
        copy(&source, &folder.join("src"), &|path, text| {
            let of_file = FAULTS.iter().filter(|it| path == source.join(it.file));
            let mut faulty = of_file.fold(text, |text, Fault { name, right, wrong, .. }| {
                assert_eq!(text.matches(right).count(), 1, "{name}: `{right}` in `{}`", path.display());
                text.replace(right, &wrong.replace(PLANTED, &format!("crate::planted({name:?})")))
            });
            if path.ends_with("src/lib.rs") {
                faulty += "\n#[allow(missing_docs)]\npub fn planted(name: &str) -> bool {\n    std::env::var(\"PLANTED\").is_ok_and(|it| it == name)\n}\n";
            }
            faulty
        });
        copy(&root.join("proto"), &folder.join("proto"), &|_, text| text);
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let manifest = manifest.replacen("name = \"gpt-oss-export\"", "name = \"faulty\"", 1);
        let members = manifest.lines().filter(|line| !line.starts_with("members = "));
        let mut manifest = members.collect::<Vec<_>>().join("\n");
        manifest += "\n[lib]\nname = \"gpt_oss_export\"\n[[bin]]\nname = \"faulty\"\npath = \"src/main.rs\"\n";
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--bin", "faulty"]).current_dir(&folder);
        // It runs for seconds; optimizing it takes longer than that saves.
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_TARGET_DIR", &target);
        printed(&mut cargo);
        target.join("debug").join(format!("faulty{}", std::env::consts::EXE_SUFFIX))
    })
}

fn faulty(fault: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(faulty_binary());
    command.args(arguments).env("PLANTED", fault);
    command
}

/// A checkpoint in a layout, whose SwiGLU reaches its limit. Where q, k and v are apart they have
/// one shape: each query head has its own copy of the key and value heads that it shared.
fn checkpoint(layout: &str) -> Home {
    let home = if layout == "original" { Home::with("tiny") } else { in_folder(layout) };
    let is_apart = !FUSED.contains(&layout);
    edit_json(&home.join("checkpoint/config.json"), |config| {
        config["swiglu_limit"] = json!(0.5);
        if is_apart {
            config["num_key_value_heads"] = json!(HEADS);
        }
    });
    edit_tensors(&home.checkpoint(), |tensors| {
        let copied = (0..HEADS * WIDTH).map(|row| row / WIDTH / GROUP * WIDTH + row % WIDTH);
        let is_shared = |name: &str| name.contains(".k_proj.") || name.contains(".v_proj.");
        for (_, tensor) in tensors.iter_mut().filter(|(name, _)| is_shared(name)) {
            *tensor = rows(tensor, copied.clone());
        }
    });
    home
}

/// The report of `verify` by a binary with a fault, of a model that it exports. `None` if the
/// fault leaves the model as it is.
fn report(fault: &Fault, layout: &str, options: &[&str]) -> Option<Value> {
    let export = |planted: &str| {
        let home = checkpoint(layout);
        let (folder, model) = (home.checkpoint(), home.join("model.onnx"));
        let options = [fault.export, options].concat();
        printed(&mut faulty(planted, &export_args(&folder, &model, &options)));
        let written = contents(&home).into_iter().map(|(_, bytes)| bytes);
        (written.collect::<Vec<_>>(), home)
    };
    let ((right, _), (wrong, home)) = (export(""), export(fault.name));
    if right == wrong {
        return None;
    }
    let (checkpoint, model) = (home.checkpoint(), home.join("model.onnx"));
    let base = ["verify", text(&model), "--checkpoint", text(&checkpoint), "--json"];
    let options = ["--onnxruntime", text(onnxruntime()), "--tokens", "24"];
    let output = faulty(fault.name, &[&base[..], &options].concat()).output().unwrap();
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn verify_finds_every_fault_in_every_layout() {
    for fault in &FAULTS {
        let layouts = ["original"].into_iter().chain(LAYOUTS);
        let targets = [&["--kv-cache"][..], &["--target", "ort"]].into_iter().cycle();
        for (layout, options) in layouts.zip(targets) {
            let context = format!("{} in {layout}", fault.name);
            let found = report(fault, layout, options);
            assert_eq!(found.is_none(), fault.spared.contains(&layout), "{context}");
            let Some(found) = found else { continue };
            assert_eq!(found["passed"], false, "{context}: {found}");
            // Both sides of this comparison share the fault.
            assert_eq!(found["weights"]["different"], json!([]), "{context}");
        }
    }
}
