//! An export that is killed at a random moment leaves the whole old model or the whole new
//! one, and the next export removes its temporary files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::environment::{assert_exact, logit_errors, reference};
use crate::layout_fixtures::edited;
use crate::support::{binary, contents, export_args, fixture, flip_last_bit, text};

const KILLS: u32 = 200;

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    contents(folder).into_iter().collect()
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
    let home = edited(|folder| flip_last_bit(&folder.join("model.safetensors")));
    let (tiny, tuned) = (fixture("tiny"), home.checkpoint());
    let (folder, model) = (home.join("out"), home.join("out/model.onnx"));
    export(&tiny, &model);
    let old = files(&folder);
    assert_exact(&model, "2x40");
    let longest = (0..5).map(|_| export(&tuned, &model)).max().unwrap();
    let both = files(&folder);
    assert_eq!((old.len(), both.len()), (2, 3), "the older model's weights stay");
    assert_ne!(old[&model], both[&model]);
    // The fine-tune loads too, whatever its logits are.
    logit_errors(std::slice::from_ref(&model), "onnxruntime", &[reference("2x40")]);

    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut untouched, mut done, mut littered) = (0, 0, 0);
    for kill in 0..KILLS {
        for name in both.keys().filter(|name| !old.contains_key(*name)) {
            fs::remove_file(name).unwrap();
        }
        fs::write(&model, &old[&model]).unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = command(&tuned, &model).spawn().unwrap();
        sleep(longest.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64));
        child.kill().unwrap();
        child.wait().unwrap();

        let mut found = files(&folder);
        let before = found.len();
        found.retain(|path, _| !text(path).contains("/.gpt-oss-export-"));
        littered += u32::from(found.len() < before);
        if found[&model] == old[&model] {
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
