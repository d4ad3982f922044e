//! Paths as users type them and as file systems have them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::{
    Home, as_user, assert_contains, assert_starts, binary, cases, copy_folder, fixture, paths,
    sentence, shell, summary,
};
use std::process::Command;

/// Exports by a line of `sh` with `LONG` as a name that is too long; its error.
#[track_caller]
fn refusal(home: &Home, line: &str) -> String {
    let before = paths(home);
    // A FIFO must not be waited for.
    let line = line.replace("LONG", &"x".repeat(300)).replace("EXPORT", "exec timeout 20 \"$0\"");
    let (status, output, error) = shell(&line, home);
    assert!(matches!(status, Some(1 | 2)) && output.is_empty(), "{line}: {status:?} {error}");
    assert_eq!(paths(home), before, "{line}");
    error
}

#[test]
fn destination_that_cannot_be_written_is_named_with_what_to_do() {
    let home = Home::with("tiny");
    fs::create_dir(home.join("folder.onnx")).unwrap();
    fs::write(home.join("file"), "").unwrap();
    symlink("nowhere", home.join("dangling")).unwrap();
    symlink("loop", home.join("loop")).unwrap();
    symlink("file", home.join("link")).unwrap();
    let table = "folder.onnx | `folder.onnx` is a folder, expected a file to write
        file/m.onnx | `file` is a file, expected a folder: choose another folder, or move it away
        file/x/y/m.onnx | `file` is a file, expected a folder
        link/m.onnx | `link` is a link that leads to no folder, expected a folder
        dangling/m.onnx | `dangling` is a link that leads to no folder, expected a folder
        dangling/x/m.onnx | `dangling` is a link that leads to no folder, expected a folder
        loop/m.onnx | `loop` is a link that leads to no folder, expected a folder
        LONG.onnx | .onnx`: File name too long (os error 36): choose a shorter name
        LONG/m.onnx | cannot create the folder `xxx
        m.onnx/ | expected a file name that ends in .onnx
        m.onnx/. | expected a file name that ends in .onnx
        . | expected a file name that ends in .onnx
        - | expected a file name that ends in .onnx
        '' | a value is required for '--output <FILE>'
        \"$(printf 'a\\nb')\"/../file/m.onnx | `a\\nb/../file` is a file, expected a folder";
    for [output, sentence] in cases(table) {
        for options in ["", "--external-data copy"] {
            let line = format!("EXPORT --checkpoint checkpoint --output {output} {options}");
            let error = refusal(&home, &line);
            assert_starts(&error, "error: ");
            assert_contains(&error, sentence);
        }
    }
}

/// Neither opened nor waited for.
#[test]
fn source_of_another_kind_is_named() {
    let table = "rm C/config.json; mkfifo C/config.json | `C/config.json` is not a regular file
        ln -sf /dev/zero C/config.json | `C/config.json` is not a regular file
        rm C/model.safetensors; mkfifo C/model.safetensors | `C/model.safetensors` is not a regular file
        ln -sf /dev/zero C/model.safetensors | `C/model.safetensors` is not a regular file
        mkfifo C/model.safetensors.index.json | `C/model.safetensors.index.json` is not a regular file
        mkfifo C/generation_config.json | `C/generation_config.json` is neither a file nor a link to one
        ln -s nowhere C/generation_config.json | `C/generation_config.json` is neither a file nor a link to one
        rm -r C; ln -s C C | there is no folder `C`
        rm -r C; touch C | `C` is a file; a checkpoint is a folder
        mv C D; touch C; set -- C/D | there is no folder `C/D`";
    for [edit, sentence] in cases(table) {
        let home = Home::new();
        copy_folder(&fixture("tiny-hf"), &home.join("C"));
        let (status, _, error) = shell(&edit.replace("; set -- C/D", ""), &home);
        assert_eq!((status, &*error), (Some(0), ""), "{edit}");
        let source = if edit.ends_with("C/D") { "C/D" } else { "C" };
        let line = format!("EXPORT --checkpoint {source} --output m.onnx --genai");
        let (status, _, error) = shell(&line.replace("EXPORT", "exec timeout 20 \"$0\""), &home);
        assert_eq!(status, Some(1), "{edit}: {error}");
        assert_contains(&error, sentence);
    }
}

#[test]
fn missing_permission_is_an_error_that_names_the_path() {
    let table = "checkpoint | `checkpoint`: Permission denied
        checkpoint/config.json | `checkpoint/config.json`: Permission denied
        checkpoint/model.safetensors | `checkpoint/model.safetensors`: Permission denied
        out | cannot write `out/weights-";
    for [locked, sentence] in cases(table) {
        let home = Home::with("tiny");
        fs::create_dir(home.join("out")).unwrap();
        let set = |path: &str, mode: u32| {
            fs::set_permissions(home.join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        [("", 0o755), ("out", 0o777)].into_iter().for_each(|(path, mode)| set(path, mode));
        set(locked, if locked == "out" { 0o555 } else { 0 });
        let line = "exec \"$0\" --checkpoint checkpoint --output out/m.onnx --external-data copy";
        let (status, _, error) = shell(&as_user(line), &home);
        set(locked, 0o755);
        assert_eq!(status, Some(1), "{locked}: {error}");
        assert_contains(&error, sentence);
        assert_contains(
            &error,
            "(os error 13): give this user the permission, or choose another path",
        );
        assert!(!error.contains(".part"), "{error}");
        assert_eq!(fs::read_dir(home.join("out")).unwrap().count(), 0);
    }
}

#[test]
fn deleted_working_folder_is_named() {
    let home = Home::with("tiny");
    for arguments in [
        "--checkpoint \"$OLDPWD/checkpoint\" --output m.onnx",
        "--checkpoint . --output \"$OLDPWD/m.onnx\"",
        "inspect . > /dev/null",
    ] {
        let line = format!("mkdir gone; cd gone; rmdir ../gone; EXPORT {arguments}");
        assert_contains(&refusal(&home, &line), "help: there is no working folder (");
    }
}

/// Names that are not UTF-8: a model refers to its weights by UTF-8, so they are read in place
/// where the path from the model to them is, and copied beside the model otherwise.
#[test]
fn paths_need_not_be_utf8() {
    let table = "B/c | B/c/m.onnx | true
        B/c | B/m.onnx | true
        B/c | out/m.onnx | false
        B/c | m.onnx | false
        c | B.onnx | true
        c | B/m.onnx | false";
    for [checkpoint, output, in_place] in cases(table) {
        let home = Home::new();
        // `B` is such a name.
        let make = "B=$(printf 'b\\377'); mkdir $B; cp -r TINY c; cp -r TINY $B/c";
        let make = make.replace("TINY", fixture("tiny").to_str().unwrap());
        let [from, to] = [checkpoint, output].map(|path| path.replace('B', "$B"));
        let run = |arguments: &str| {
            let line =
                format!("[ -d c ] || {{ {make}; }}; B=$(printf 'b\\377'); \"$0\" {arguments}");
            let mut command = Command::new("sh");
            command.args(["-c", &line, env!("CARGO_BIN_EXE_gpt-oss-export")]);
            summary(command.current_dir(&*home))
        };
        let made = run(&format!("--checkpoint {from} --output {to} --json"));
        assert_eq!(made["weights"]["in_place"].to_string(), in_place, "{checkpoint} {output}");
        assert_eq!(made["model"]["path"], output.replace('B', "b\u{fffd}"));
        let found = run(&format!("inspect {to} --json"));
        assert!(found["files"][0]["problem"].is_null(), "{found}");
        run(&format!("inspect {from} --json"));
    }
}

/// Shells replace a `~` that begins a word, and no other.
#[test]
fn tells_what_the_shell_has_not_replaced() {
    let home = Home::with("tiny");
    let refusal = |checkpoint: &str, output: &str| {
        let arguments = ["--checkpoint", checkpoint, "--output", output];
        sentence(binary(&arguments).current_dir(&*home))
    };
    let expected =
        "`~/m.onnx` begins with `~`, which the shell has not replaced: write the whole path";
    assert_contains(&refusal("checkpoint", "~/m.onnx"), expected);
    let expected =
        "there is no folder `~/model`: the shell has not replaced `~`; write the whole path";
    assert_contains(&refusal("~/model", "m.onnx"), expected);
    assert!(!home.join("~").exists() && !home.join("m.onnx").exists());
}
