//! Names of checkpoints on the hub.

use gpt_oss_export::export::RepoPath;

use crate::support::{cases, words};

#[test]
fn parses_names() {
    let cases = [
        ("openai/gpt-oss-20b", ["openai/gpt-oss-20b", "main", ""], "openai--gpt-oss-20b"),
        ("a/b/original", ["a/b", "main", "original"], "a--b"),
        ("a/b@v1.0", ["a/b", "v1.0", ""], "a--b@v1.0"),
        ("a/b@v1/step/500", ["a/b", "v1", "step/500"], "a--b@v1"),
        ("a/b@refs/pr/3", ["a/b", "refs/pr/3", ""], "a--b@refs-pr-3"),
        ("a/b@refs/pr/3/original", ["a/b", "refs/pr/3", "original"], "a--b@refs-pr-3"),
        ("a/b@topic%2Fone", ["a/b", "topic%2Fone", ""], "a--b@topic%2Fone"),
    ];
    for (text, parts, download_folder) in cases {
        let found = RepoPath::parse(text).unwrap();
        assert_eq!([&*found.repository, &found.revision, &found.folder], parts, "{text}");
        assert_eq!(found.default_folder(), download_folder);
        assert_eq!(found.to_string(), text);
    }
    assert_eq!(RepoPath::parse("a/b/").unwrap().to_string(), "a/b");
    // It may be a local path.
    assert_eq!(RepoPath::parse("a/b/step/5"), None);
    let found = RepoPath::parse_certain("a/b/step/5").unwrap();
    assert_eq!([&*found.repository, &found.revision, &found.folder], ["a/b", "main", "step/5"]);
}

#[test]
fn parses_addresses() {
    let table = "https://huggingface.co/openai/gpt-oss-20b | openai/gpt-oss-20b
        https://huggingface.co/openai/gpt-oss-20b/ | openai/gpt-oss-20b
        http://www.huggingface.co/openai/gpt-oss-20b?library=transformers#files | openai/gpt-oss-20b
        HTTPS://HuggingFace.co/a/b | a/b
        https://hf.co/a/b.git | a/b
        huggingface.co/a/b | a/b
        hf.co/a/b/tree/main | a/b
        https://user:secret@huggingface.co/a/b | a/b
        https://huggingface.co/a/b/tree/main/original | a/b/original
        https://huggingface.co/a/b/tree/v1/step/500 | a/b@v1/step/500
        https://huggingface.co/a/b/tree/refs%2Fpr%2F3 | a/b@refs%2Fpr%2F3
        https://huggingface.co/a/b/commit/0123abc | a/b@0123abc
        https://huggingface.co/a/b/blob/main/config.json | a/b
        https://huggingface.co/a/b/resolve/v1/original/model.safetensors?download=true | a/b@v1/original
        hf://a/b@v1/step | a/b@v1/step
        git@hf.co:a/b.git | a/b
        ssh://git@huggingface.co/a/b | a/b";
    for [address, expected] in cases(table) {
        let found = RepoPath::from_address(address).unwrap_or_else(|| panic!("{address}"));
        assert_eq!(found.to_string(), expected, "{address}");
    }
    let others = "a/b hf:a/b https://github.com/a/b https://huggingface.co/a \
        https://huggingface.co/datasets/a/b https://huggingface.co/spaces/a \
        https://huggingface.co/a/b/discussions https://huggingface.co/a/b/tree/main/../x \
        https://huggingface.co.example.com/a/b https://example.com/huggingface.co/a/b \
        git@github.com:a/b s3://a/b huggingface.co huggingface.co/a";
    for address in words(others) {
        assert_eq!(RepoPath::from_address(address), None, "{address}");
    }
}

#[test]
fn rejects_paths() {
    let paths = "gpt2 a/b@ a/b/c a/ /a/b ./a ../a ~/a a/../b a/b@v1/../../x a\\b/c C:/models";
    assert!(paths.split(' ').chain(["a/b c"]).all(|text| RepoPath::parse(text).is_none()));
}
