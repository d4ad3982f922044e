//! Limits of the process, as a shell sets them: on files, memory, threads and output.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::layout_fixtures::{config, in_layout, write, write_index};
use crate::support::{Home, as_user, assert_contains, cases, contents, shell};

/// A checkpoint of more shards than a process may have open.
#[test]
fn few_open_files_suffice_for_many_shards() {
    let home = Home::new();
    let folder = home.checkpoint();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), config().to_string()).unwrap();
    let mut map = BTreeMap::new();
    for (at, (name, tensor)) in in_layout("bf16").into_iter().enumerate() {
        let shard = format!("model-{at:05}.safetensors");
        write(&folder.join(&shard), &[(name.clone(), tensor)].into());
        map.insert(name, shard);
    }
    assert!(map.len() > 30);
    write_index(&folder, map);
    for arguments in [
        "--checkpoint checkpoint --output copy/m.onnx --external-data copy",
        "--checkpoint checkpoint --output int4/m.onnx --experts int4",
        "--checkpoint checkpoint --output in-place/m.onnx --target ort",
        "inspect checkpoint --scan",
    ] {
        // Each thread of a conversion has two.
        let line = format!("ulimit -n 20; exec taskset -c 0 \"$0\" {arguments}");
        let (status, _, error) = shell(&line, &home);
        assert_eq!((status, &*error), (Some(0), ""), "{arguments}");
    }
}

/// Nothing is left, and the sentence names the limit.
#[test]
fn exceeded_limit_is_an_error_that_says_what_to_raise() {
    let home = Home::with("tiny");
    for folder in [&*home, &home.checkpoint()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let before = contents(&home);
    let table = "ulimit -f 100 | --external-data copy --output out/m.onnx | cannot write `out/weights-
        ulimit -f 100 | --external-data copy --output out/m.onnx | File too large (os error 27): raise the limit on the size of files (`ulimit -f`)
        ulimit -f 10 | --output checkpoint/m.onnx | cannot write `checkpoint/m.onnx`: File too large
        ulimit -n 5 | --external-data copy --output out/m.onnx | `checkpoint/model.safetensors`: Too many open files (os error 24): raise the limit on open files (`ulimit -n`)
        ulimit -u 1 | --output out/m.onnx | cannot handle signals: Resource temporarily unavailable (os error 11): raise the limit on processes (`ulimit -u`)
        ulimit -u 2 | --output out/m.onnx | cannot start a thread: Resource temporarily unavailable (os error 11): raise the limit on processes (`ulimit -u`)
        ulimit -u 3 | --experts int4 --output out/m.onnx | cannot start a thread: Resource temporarily unavailable (os error 11): raise the limit on processes (`ulimit -u`)
        export RAYON_NUM_THREADS=64; ulimit -u 32 | --experts int4 --output out/m.onnx | cannot start a thread: Resource temporarily unavailable (os error 11): raise the limit on processes (`ulimit -u`)
        ulimit -v STARTS | --experts int4 --output out/m.onnx | or on memory (`ulimit -v`)";
    let starts = |kib: &u32| shell(&format!("ulimit -v {kib}; exec \"$0\" -V"), &home).0 == Some(0);
    let least = (10_000..500_000).step_by(500).find(starts).unwrap().to_string();
    for [limit, options, sentence] in cases(table) {
        let limit = limit.replace("STARTS", &least);
        let export = format!("exec \"$0\" --checkpoint checkpoint {options}");
        let (status, _, error) = shell(&as_user(&format!("{limit}; {export}")), &home);
        assert_eq!(status, Some(1), "{limit}: {error}");
        assert_contains(&error, sentence);
        assert!(contents(&home) == before, "{limit}");
    }
}

/// A reader who has seen enough is none, a full disk is.
#[test]
fn output_ends_where_its_reader_does() {
    let home = Home::with("tiny");
    let table = "inspect checkpoint --json | head -c 1 | 0 |
        inspect checkpoint | true | 0 |
        --help | head -1 | 0 |
        man | head -1 | 0 |
        inspect checkpoint | cat > /dev/full | 0 |
        inspect checkpoint > /dev/full | true | 1 | error: cannot write to standard output: No space left on device
        inspect checkpoint > /dev/full 2>&- | true | 1 |";
    for [arguments, reader, status, sentence] in cases(table) {
        let line = format!("{{ \"$0\" {arguments}; echo $? >status; }} 2>errors | {reader} 2>&-");
        shell(&line, &home);
        let [found, errors] =
            ["status", "errors"].map(|name| fs::read_to_string(home.join(name)).unwrap());
        assert_eq!(found.trim(), status, "{arguments}: {errors}");
        assert!(
            errors.starts_with(sentence) && errors.is_empty() == sentence.is_empty(),
            "{errors}"
        );
    }
}
