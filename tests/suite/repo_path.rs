//! Names of checkpoints on the hub.

use gpt_oss_export::export::RepoPath;

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
}

#[test]
fn rejects_paths() {
    let paths = "gpt2 a/b@ a/b/c a/ /a/b ./a ../a ~/a a/../b a/b@v1/../../x a\\b/c C:/models";
    assert!(paths.split(' ').chain(["a/b c"]).all(|text| RepoPath::parse(text).is_none()));
}
