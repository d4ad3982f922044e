//! Tokenizer files in packages: what they have to be, and what is said of them.

use std::fs;

use serde_json::json;

use crate::genai::{generation, package, with_tokenizer};
use crate::support::{Home, assert_contains, cases, words};

/// Files that came in the place of a tokenizer's, by the name that they have.
#[test]
fn refuses_tokenizer_files_that_are_something_else() {
    let table = r#"tokenizer.json | version https://git-lfs.github.com/spec/v1 | is a Git LFS pointer, not the file itself
        tokenizer.json | <!DOCTYPE html><html> | is an HTML page, not the file itself
        tokenizer.json | Entry not found | is a text that begins "Entry not found"
        tokenizer.json | {"model": {"vocab": {"a": | is not valid JSON: EOF
        tokenizer.json | | is empty, expected an object of JSON
        tokenizer.json | {"model": 3} | is invalid:
        tokenizer.json | {} | has no tokens: it is damaged; download it again
        tokenizer.json | {"added_tokens": []} | has no tokens
        tokenizer_config.json | version https://git-lfs.github.com/spec/v1 | is a Git LFS pointer
        tokenizer_config.json | {"chat_template": | is not valid JSON
        special_tokens_map.json | <html> | is an HTML page
        chat_template.jinja | version https://git-lfs.github.com/spec/v1 | is a Git LFS pointer
        chat_template.jinja | <!doctype html> | is an HTML page
        chat_template.jinja | | is empty: download it again, or delete it
        chat_template.jinja | Repository not found | is a text that begins"#;
    for [name, contents, expected] in cases(table) {
        for (output, options) in
            [("out/model", "--genai"), ("out/onnx/model", "--target onnx --transformers-js")]
        {
            let home = Home::with("tiny-hf");
            fs::write(home.join("checkpoint/generation_config.json"), generation()).unwrap();
            fs::write(home.join("checkpoint").join(name), contents).unwrap();
            let sentence = home.refusal(output, &words(options));
            assert_contains(&sentence, &format!("checkpoint/{name}` {expected}"));
        }
    }
    // A template may begin as any text.
    for template in ["You are {{ name }}.", "{% for m in messages %}{{ m.content }}{% endfor %}"] {
        let home = with_tokenizer();
        fs::write(home.join("checkpoint/chat_template.jinja"), template).unwrap();
        package(&home, "out/model", &[]);
    }
}

/// Tokens that the model does not have, in each place where a tokenizer names them.
#[test]
fn tells_of_tokens_beyond_the_vocabulary() {
    for (tokenizer, beyond) in [
        (json!({"model": {"vocab": {"a": 319}}}), None),
        (json!({"model": {"vocab": {"a": 320, "b": 1}}}), Some(320)),
        (json!({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 5000}]}), Some(5000)),
        (json!({"model": {"vocab": vec![json!(["a", -1.0]); 321]}}), Some(320)),
        (json!({"model": {"vocab": vec![json!(["a", -1.0]); 320]}}), None),
    ] {
        let home = with_tokenizer();
        fs::write(home.join("checkpoint/tokenizer.json"), tokenizer.to_string()).unwrap();
        let found = &package(&home, "out/model", &[])["genai"]["beyond_vocabulary"];
        assert_eq!(found.as_u64(), beyond, "{tokenizer}");
        let printed = home.printed_summary("out/model", &["--genai"]);
        let note = "which are not in the model's vocabulary: it may be another model's";
        assert_eq!(printed.contains(note), beyond.is_some(), "{printed}");
    }
}
