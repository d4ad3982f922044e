//! An export that is killed at a random moment leaves the whole old model or the whole new
//! one, and the next export removes its temporary files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::environment::{assert_exact, logit_errors, reference};
use crate::support::{binary, export_args, fixture, flip_last_bit, folder_with_checkpoint};

const KILLS: u32 = 200;

/// The files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

fn command(checkpoint: &Path, model: &Path) -> Command {
    let options = ["--external-data", "copy", "--quiet"];
    let mut command = binary(&export_args(checkpoint, model, &options));
    command.stderr(Stdio::null());
    command
}

/// Exports a checkpoint, and returns how long that took.
fn export(checkpoint: &Path, model: &Path) -> Duration {
    let began = Instant::now();
    assert!(command(checkpoint, model).status().unwrap().success());
    began.elapsed()
}

#[test]
fn killed_export_leaves_whole_model() {
    let home = folder_with_checkpoint("tiny");
    let (tiny, tuned) = (fixture("tiny"), home.path().join("checkpoint"));
    flip_last_bit(&tuned.join("model.safetensors"));
    let (folder, model) = (home.path().join("out"), home.path().join("out/model.onnx"));
    export(&tiny, &model);
    let old = files(&folder);
    assert_exact(&model, "2x40");
    let longest = (0..5).map(|_| export(&tuned, &model)).max().unwrap();
    let both = files(&folder);
    assert_eq!((old.len(), both.len()), (2, 3), "the older model's weights stay");
    assert_ne!(old["model.onnx"], both["model.onnx"]);
    // The fine-tune loads too, whatever its logits are.
    logit_errors(std::slice::from_ref(&model), "onnxruntime", &[reference("2x40")]);

    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut untouched, mut done, mut littered) = (0, 0, 0);
    for kill in 0..KILLS {
        for name in both.keys().filter(|name| !old.contains_key(*name)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::write(&model, &old["model.onnx"]).unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = command(&tuned, &model).spawn().unwrap();
        sleep(longest.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64));
        child.kill().unwrap();
        child.wait().unwrap();

        let mut found = files(&folder);
        let before = found.len();
        found.retain(|name, _| !name.starts_with(".gpt-oss-export-"));
        littered += u32::from(found.len() < before);
        if found["model.onnx"] == old["model.onnx"] {
            untouched += 1;
            let whole =
                |(name, bytes)| [&old, &both].iter().any(|all| all.get(name) == Some(bytes));
            assert!(found.iter().all(whole), "{kill}: {:?}", found.keys());
        } else {
            done += 1;
            assert!(found == both, "{kill}: {:?}", found.keys());
        }
        export(&tuned, &model);
        assert!(files(&folder) == both, "{kill}: the next export removes temporary files");
    }
    // Otherwise the kills were not within the export.
    assert!(
        untouched > 0 && littered > 0,
        "{untouched} untouched, {littered} with temporary files, {done} done"
    );
}
