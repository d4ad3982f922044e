//! The rules of `docs/architecture.md`, checked on the sources.

use crate::support::{root, text};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};

const COMMON_CRATES: [&str; 2] = ["fs_err", "serde"];

const JSON_ROOMS: &str = "files onnx container reference checkpoint adapter weights hub package exported inspect text generate cli";

const LONGEST_FILE: usize = 400;

/// A file of `src`, without comments and unit tests.
struct Source {
    /// `weights/reader` for `src/weights/reader.rs`.
    name: String,
    /// `["weights", "reader"]`; a `mod.rs` is the module of its folder.
    module: Vec<String>,
    lines: Vec<String>,
    /// Paths of imports by their local names.
    imports: BTreeMap<String, Vec<String>>,
    /// All other paths and names.
    paths: BTreeSet<Vec<String>>,
}

/// The table of `docs/architecture.md`: the floor of each room, and the owners of each crate.
fn floors_and_owners() -> (BTreeMap<String, usize>, BTreeMap<String, Vec<String>>) {
    let (mut floors, mut owners) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for line in document.lines() {
        let [_, floor, rooms, _, crates, _] = line.split('|').collect::<Vec<_>>()[..] else {
            continue;
        };
        let Ok(floor) = floor.trim().parse() else { continue };
        for room in rooms.split('`').skip(1).step_by(2) {
            floors.insert(room.to_owned(), floor);
            for name in crates.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                owners.entry(name.to_owned()).or_default().push(room.to_owned());
            }
        }
    }
    let json_rooms = JSON_ROOMS.split(' ').map(str::to_owned).collect();
    owners.insert("serde_json".to_owned(), json_rooms);
    (floors, owners)
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let pattern = root().join(folder).join("**/*.rs");
    glob::glob(text(&pattern)).unwrap().map(Result::unwrap).collect()
}

/// All files but unit tests and generated code.
fn sources() -> Vec<Source> {
    let files = rust_files("src").into_iter();
    let is_source =
        |path: &PathBuf| !path.ends_with("tests.rs") && !path.ends_with("onnx/proto.rs");
    files.filter(is_source).map(|path| Source::read(&path)).collect()
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(|segment| segment.trim().to_owned()).collect()
}

impl Source {
    fn read(path: &Path) -> Self {
        let name = path.strip_prefix(root().join("src")).unwrap().with_extension("");
        let name = name.to_str().unwrap().replace('\\', "/");
        // `tensor` is a crate of its own.
        let module = name.trim_end_matches("/mod").trim_end_matches("/lib");
        let module = module.split('/').map(str::to_owned).collect();
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let lines = code.map(|line| line.split(" // ").next().unwrap().to_owned()).collect();
        let mut source =
            Self { name, module, lines, imports: BTreeMap::new(), paths: BTreeSet::new() };
        source.collect_paths();
        if source.room() == "tensor" {
            source.start_paths_with_the_room();
        }
        source
    }

    fn collect_paths(&mut self) {
        let mut import = String::new();
        for line in &self.lines {
            let item = without_visibility(line.trim());
            if item.starts_with("mod ") {
                continue;
            }
            if import.is_empty() && !item.starts_with("use ") {
                let words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                self.paths.extend(words.map(|word| segments(word.trim_end_matches(':'))));
                continue;
            }
            import.push_str(item);
            if let Some(tree) = import.strip_prefix("use ").and_then(|it| it.strip_suffix(';')) {
                add_imports("", tree, &mut self.imports);
                import.clear();
            }
        }
    }

    /// In a crate of its own, `crate` is the room.
    fn start_paths_with_the_room(&mut self) {
        let full = |path: Vec<String>| match &*path[0] {
            "crate" => segments(&format!("crate::tensor::{}", path[1..].join("::"))),
            _ => path,
        };
        self.imports = mem::take(&mut self.imports)
            .into_iter()
            .map(|(name, path)| (name, full(path)))
            .collect();
        self.paths = mem::take(&mut self.paths).into_iter().map(full).collect();
    }

    fn room(&self) -> &str {
        &self.module[0]
    }

    fn all_paths(&self) -> impl Iterator<Item = &Vec<String>> {
        self.imports.values().chain(&self.paths).filter(|path| path.len() > 1)
    }

    /// All paths but re-exports: an import whose name the file itself does not use.
    fn used_paths(&self) -> impl Iterator<Item = &Vec<String>> {
        let names: BTreeSet<&String> = self.paths.iter().map(|path| &path[0]).collect();
        let used = self.imports.iter().filter(move |(name, _)| names.contains(name));
        used.map(|(_, path)| path).chain(&self.paths).filter(|path| path.len() > 1)
    }
}

fn without_visibility(item: &str) -> &str {
    item.trim_start_matches("pub ").trim_start_matches("pub(crate) ")
}

/// Adds `c` and `e` for the import `a::{b::c, d as e}`.
fn add_imports(prefix: &str, tree: &str, imports: &mut BTreeMap<String, Vec<String>>) {
    let tree = tree.trim();
    if let Some((path, group)) = tree.split_once('{') {
        let mut depth = 0;
        let is_separator = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        };
        let trees = group.strip_suffix('}').unwrap().split(is_separator);
        for tree in trees.filter(|tree| !tree.is_empty()) {
            add_imports(&format!("{prefix}{path}"), tree, imports);
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut path = segments(&format!("{prefix}{path}"));
    path.pop_if(|last| last == "self");
    let name = if alias.is_empty() { path.last().unwrap() } else { alias };
    imports.insert(name.to_owned(), path);
}

/// The file that defines what a path names; `None` for other crates.
fn definition<'s>(sources: &'s [Source], from: &Source, path: &[String]) -> Option<&'s Source> {
    let find = |module: &[String]| sources.iter().find(|source| source.module == module);
    let (mut module, rest) = match &*path[0] {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.module.clone(), &path[1..]),
        "super" => (from.module.clone(), path),
        // Child modules; the paths of other crates begin with no module of this one.
        first => find(&[&from.module[..], &[first.to_owned()]].concat())
            .map(|_| (from.module.clone(), path))?,
    };
    for (at, segment) in rest.iter().enumerate() {
        if segment == "super" {
            module.pop();
            continue;
        }
        module.push(segment.clone());
        if find(&module).is_none() {
            module.pop();
            let source = find(&module)?;
            let Some(import) = source.imports.get(segment) else { return Some(source) };
            return definition(sources, source, &[import, &rest[at + 1..]].concat());
        }
    }
    find(&module)
}

#[test]
fn imports_point_downward() {
    let (floors, _) = floors_and_owners();
    let floor = |room: &str| {
        *floors.get(room).unwrap_or_else(|| panic!("docs/architecture.md lacks `{room}`"))
    };
    let mut imports = 0;
    for source in sources() {
        let own = source.room();
        let own_floor = floor(own);
        for path in source.all_paths() {
            if ["crate", "gpt_oss_export"].contains(&&*path[0]) && path[1] != own {
                let path = path.join("::");
                let room = path.split("::").nth(1).unwrap();
                assert!(floor(room) < own_floor, "{} imports {path}", source.name);
                imports += 1;
            }
        }
    }
    assert!(imports > 300, "found only {imports} imports");
}

/// Otherwise a fault of the exporter's reader could be one of the reference too.
#[test]
fn the_reference_reads_checkpoints_by_itself() {
    let allowed = ["error", "files", "progress", "reference", "tensor::DType", "tensor::decode"];
    for source in sources().into_iter().filter(|source| source.room() == "reference") {
        for path in source.all_paths().filter(|path| path[0] == "crate") {
            let path = path[1..].join("::");
            let is_allowed =
                allowed.iter().any(|it| path == *it || path.starts_with(&format!("{it}::")));
            assert!(is_allowed, "{} uses {path}", source.name);
        }
    }
}

#[test]
fn files_of_a_folder_form_no_circles() {
    let sources = sources();
    // For each folder its files and folders that import each other, with an example.
    let mut folders: BTreeMap<&[String], BTreeMap<[&str; 2], String>> = BTreeMap::new();
    for source in &sources {
        let targets = source.used_paths().map(|path| (path, definition(&sources, source, path)));
        for (path, target) in targets.filter_map(|(path, target)| Some((path, target?))) {
            let (from, to) = (&source.module, &target.module);
            let depth = from.iter().zip(to).take_while(|(one, other)| one == other).count();
            if depth > 0 && from != to {
                let example = format!("{} uses {}", source.name, path.join("::"));
                let edge = [from, to].map(|module| module.get(depth).map_or("mod", |it| it));
                folders.entry(&from[..depth]).or_default().entry(edge).or_insert(example);
            }
        }
    }
    let circles = folders.values().flat_map(|edges| {
        edges.iter().filter(|([from, to], _)| reachable(edges, to).contains(from))
    });
    let examples: Vec<&str> = circles.map(|(_, example)| &**example).collect();
    assert!(examples.is_empty(), "imports in circles:\n{}", examples.join("\n"));
    assert!(folders.len() > 15, "found imports in only {} folders", folders.len());
}

/// The nodes to which edges lead from `start`, itself included.
fn reachable<'e>(edges: &BTreeMap<[&'e str; 2], String>, start: &'e str) -> BTreeSet<&'e str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(node) = open.pop() {
        if found.insert(node) {
            open.extend(edges.keys().filter(|[from, _]| *from == node).map(|[_, to]| to));
        }
    }
    found
}

#[test]
fn dependencies_are_named_by_their_owners_alone() {
    let manifests = ["Cargo.toml", "src/tensor/Cargo.toml"];
    let manifests = manifests.map(|path| fs::read_to_string(root().join(path)).unwrap());
    let section = |manifest: &str| -> String {
        manifest.split("[dependencies]\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned()
    };
    let sections = manifests.map(|manifest| section(&manifest)).join("\n");
    let names = sections.lines().map(|line| line.split(' ').next().unwrap().replace('-', "_"));
    let dependencies: BTreeSet<String> =
        names.filter(|name| !name.is_empty() && name != "gpt_oss_tensor").collect();
    let (_, owners) = floors_and_owners();
    let common = COMMON_CRATES.map(str::to_owned);
    let known: BTreeSet<String> = owners.keys().cloned().chain(common).collect();
    assert_eq!(known, dependencies, "owners of dependencies");

    let mut named = BTreeSet::new();
    for source in sources() {
        for path in source.all_paths() {
            // Some modules are called like a crate.
            let is_module = source.imports.get(&path[0]).is_some_and(|import| import != path);
            let name = if path[0].is_empty() { &path[1] } else { &path[0] };
            if dependencies.contains(name) && !is_module {
                let is_owner = owners.get(name).is_none_or(|it| it.contains(&source.module[0]));
                assert!(is_owner, "{} names crate `{name}`", source.name);
                named.insert(name.clone());
            }
        }
    }
    assert_eq!(named, dependencies, "dependencies that are used");
}

/// What differs between systems has a counterpart, side by side.
#[test]
fn systems_differ_in_two_files() {
    let names_one = |line: &String| {
        ["unix", "windows"].iter().any(|os| line.contains(&format!("std::os::{os}")))
    };
    let is_special = |it: &Source| it.lines.iter().any(names_one);
    let special: Vec<String> = sources().into_iter().filter(is_special).map(|it| it.name).collect();
    assert_eq!(special, ["files/metadata", "files/positional"]);
}

#[test]
fn type_names_are_unique() {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        // An indented `type` belongs to a trait.
        let items = source.lines.iter().filter(|line| !line.starts_with("    type "));
        for item in items.map(|line| without_visibility(line.trim())) {
            let mut words = item.split(|c: char| !c.is_alphanumeric() && c != '_');
            let kind = words.next().unwrap();
            if ["struct", "enum", "trait", "type"].contains(&kind) {
                let name = words.next().unwrap().to_owned();
                files.entry(name).or_default().insert(source.name.clone());
            }
        }
    }
    files.retain(|_, files| files.len() > 1);
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn command_line_options_are_named_in_cli_alone() {
    for source in sources().into_iter().filter(|source| source.room() != "cli") {
        for line in &source.lines {
            // Commands of other programs have options of their own.
            let own = line.split("`python ").next().unwrap();
            let mut after = own.split("--").skip(1);
            let is_option = after.any(|it| it.starts_with(|c: char| c.is_ascii_lowercase()));
            assert!(!is_option, "{}: {line}", source.name);
        }
    }
}

#[test]
fn files_are_short() {
    for path in ["src", "tests"].into_iter().flat_map(rust_files) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", path.display());
    }
}
