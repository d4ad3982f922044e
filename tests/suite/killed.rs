//! An export that is killed at any moment: the folder has the old model or the new one,
//! whole, and what is left over goes with the next export.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{copy_folder, fixture, logit_errors, python, reference};

const TIMES: u32 = 200;

/// The files of a folder.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

fn export(checkpoint: &Path, model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpt-oss-export"));
    command.arg("--checkpoint").arg(checkpoint).arg("--output").arg(model);
    command.args(["--external-data", "copy", "--quiet"]).stderr(Stdio::null());
    command
}

fn whole(checkpoint: &Path, model: &Path) -> Duration {
    let began = Instant::now();
    assert!(export(checkpoint, model).status().unwrap().success());
    began.elapsed()
}

/// A fine-tune of tiny: one weight has another sign.
fn fine_tune(folder: &Path) -> PathBuf {
    copy_folder(&fixture("tiny"), folder);
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    fs::write(path, bytes).unwrap();
    folder.to_owned()
}

#[test]
fn whenever_an_export_is_killed_the_folder_has_a_whole_model() {
    let home = tempfile::tempdir().unwrap();
    let (tiny, tuned) = (fixture("tiny"), fine_tune(&home.path().join("tuned")));
    let model = home.path().join("out/model.onnx");
    let folder = model.parent().unwrap().to_owned();
    whole(&tiny, &model);
    let old = files(&folder);
    assert!(logit_errors(&model, "onnxruntime", &["2x40"])[0] < 1e-4);
    let longest = (0..5).map(|_| whole(&tuned, &model)).max().unwrap();
    let both = files(&folder);
    let graph = &both["model.onnx"];
    assert_eq!((old.len(), both.len()), (2, 3), "the older model's weights stay");
    assert_ne!(&old["model.onnx"], graph);
    // The fine-tune loads too, whatever its logits are.
    let ids = reference("2x40");
    python("logits.py", &[], &json!({"model": model, "engine": "onnxruntime", "cases": [ids]}));

    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut untouched, mut done, mut littered) = (0, 0, 0);
    for at in 0..TIMES {
        for name in both.keys().filter(|name| !old.contains_key(*name)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::write(&model, &old["model.onnx"]).unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = export(&tuned, &model).spawn().unwrap();
        sleep(longest.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64));
        child.kill().unwrap();
        child.wait().unwrap();

        let found = files(&folder);
        let is_litter = |name: &String| name.starts_with(".gpt-oss-export-");
        littered += u32::from(found.keys().any(is_litter));
        // Old or new, with the weights that it refers to.
        match &found["model.onnx"] {
            there if *there == old["model.onnx"] => untouched += 1,
            there if there == graph => {
                done += 1;
                assert!(both.iter().all(|(name, bytes)| found.get(name) == Some(bytes)), "{at}");
            }
            _ => panic!("after {at}: neither the old graph nor the new one"),
        }
        let whole_or_litter = |(name, bytes): (&String, &Vec<u8>)| {
            is_litter(name) || both.get(name) == Some(bytes) || old.get(name) == Some(bytes)
        };
        assert!(found.iter().all(whole_or_litter), "{at}: {:?}", found.keys());
        whole(&tuned, &model);
        assert!(files(&folder) == both, "the next export is whole and clears what was left");
    }
    // Else the moments were not within the export.
    assert!(
        untouched > 0 && littered > 0,
        "{untouched} untouched, {littered} littered, {done} done"
    );
}
