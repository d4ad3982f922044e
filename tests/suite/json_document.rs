//! `docs/json.md` is generated from `docs/summary.schema.json`, which `python::summaries` holds against
//! what the commands print.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use serde_json::{Map, Value};

use crate::documents::assert_generated;
use crate::support::root;

const HEAD: &str = "\
# JSON of the commands

`--json` prints one object on standard output. A command that cannot do its work prints nothing. A
`verify` that finds a difference, an export whose `--verify` fails, and an `inspect` of what cannot be
exported print their object, with status 1. Infinity and NaN are `null`. Keys with ° are
absent where they do not apply. [The JSON Schema](summary.schema.json) says the same to programs; a
test writes this page from it.
";

/// The definitions of commands, with their headings; all others are parts of these.
const COMMANDS: [(&str, &str); 11] = [
    ("export", "Export"),
    ("verify", "Verify"),
    ("generate", "Generate"),
    ("evaluate", "Evaluate"),
    ("adapter", "Adapter"),
    ("inspect_checkpoint", "Inspect: a checkpoint"),
    ("inspect_folder", "Inspect: a folder that cannot be exported"),
    ("inspect_tensors", "Inspect: a SafeTensors file"),
    ("inspect_adapter", "Inspect: a LoRA adapter"),
    ("inspect_model", "Inspect: an ONNX model"),
    ("inspect_onnx_adapter", "Inspect: an adapter for ONNX Runtime"),
];

struct Page<'s> {
    definitions: &'s Map<String, Value>,
    text: String,
}

/// A key as it is shown, whether it may be absent, and its schemas: several if alternatives have it.
struct Row<'s> {
    key: String,
    is_optional: bool,
    schemas: Vec<&'s Value>,
}

impl<'s> Page<'s> {
    fn definition(&self, schema: &'s Value) -> Option<(&'s str, &'s Value)> {
        let name = schema["$ref"].as_str()?.strip_prefix("#/$defs/").unwrap();
        Some((name, &self.definitions[name]))
    }

    fn section(&mut self, heading: &str, schema: &'s Value) {
        let about = schema["description"].as_str().expect("a definition without a description");
        write!(self.text, "\n{heading}\n\n{about}\n\n| key | type | meaning |\n|---|---|---|\n")
            .unwrap();
        self.rows("", schema);
    }

    fn rows(&mut self, path: &str, object: &'s Value) {
        for Row { key, is_optional, schemas } in rows(object) {
            let (key, mark) = (format!("{path}{key}"), if is_optional { "°" } else { "" });
            let mut types: Vec<String> = schemas.iter().map(|it| self.type_of(it)).collect();
            types.dedup();
            let meaning =
                self.meaning(schemas[0]).unwrap_or_else(|| panic!("`{key}` is not explained"));
            let types = types.join(", ");
            writeln!(self.text, "| `{key}`{mark} | {types} | {meaning} |").unwrap();
            for schema in schemas {
                let inner = Some(&schema["items"]).filter(|it| it.is_object());
                let (inner, dot) = inner.map_or((schema, "."), |it| (it, "[]."));
                if inner["properties"].is_object() {
                    self.rows(&format!("{key}{dot}"), inner);
                }
            }
        }
    }

    /// What a key means: its own words, or those of its type.
    fn meaning(&self, schema: &'s Value) -> Option<String> {
        let own = schema["description"].as_str();
        let of_part = || self.definition(schema).and_then(|(_, it)| it["description"].as_str());
        let found = own.or_else(of_part).map(str::to_owned);
        let inner = schema["anyOf"].as_array().into_iter().flatten().chain(schema.get("items"));
        found.or_else(|| inner.map(|it| self.meaning(it)).next()?)
    }

    fn type_of(&self, schema: &'s Value) -> String {
        if let Some((name, definition)) = self.definition(schema) {
            let is_object = !rows(definition).is_empty();
            let heading = COMMANDS.iter().find(|(it, _)| *it == name).map_or(name, |(_, it)| *it);
            let heading = heading.to_lowercase();
            return if is_object { format!("[{name}](#{heading})") } else { name.to_owned() };
        }
        let several = |all: &'s Value| {
            let all = all.as_array().unwrap().iter();
            all.map(|it| self.type_of(it)).collect::<Vec<_>>().join(" or ")
        };
        let literals = |all: &[Value]| {
            let all = all.iter().map(|it| it.as_str().map_or(it.to_string(), str::to_owned));
            all.map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
        };
        match schema.as_object().unwrap() {
            it if it.contains_key("anyOf") => several(&it["anyOf"]),
            it if it.contains_key("oneOf") => several(&it["oneOf"]),
            it if it.contains_key("enum") => literals(it["enum"].as_array().unwrap()),
            it if it.contains_key("const") => literals(std::slice::from_ref(&it["const"])),
            it if it.contains_key("items") => format!("array of {}", self.type_of(&it["items"])),
            it if it["type"].is_array() => {
                let types = it["type"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
                types.collect::<Vec<_>>().join(" or ")
            }
            it if it.get("additionalProperties").is_some_and(Value::is_object) => {
                format!("object of {}", self.type_of(&it["additionalProperties"]))
            }
            it => it["type"].as_str().unwrap().to_owned(),
        }
    }
}

/// The keys of an object, or of all alternatives.
fn rows(schema: &Value) -> Vec<Row<'_>> {
    let alternatives = schema["oneOf"].as_array().map_or(vec![schema], |all| all.iter().collect());
    let mut rows: Vec<Row> = Vec::new();
    for alternative in &alternatives {
        let Some(properties) = alternative["properties"].as_object() else { continue };
        for (key, schema) in properties {
            match rows.iter_mut().find(|it| it.key == *key) {
                Some(row) => row.schemas.push(schema),
                None => {
                    rows.push(Row { key: key.clone(), is_optional: false, schemas: vec![schema] });
                }
            }
        }
    }
    for row in &mut rows {
        let is_required = |it: &&Value| {
            it["required"].as_array().is_some_and(|all| all.iter().any(|it| *it == row.key))
        };
        row.is_optional = !alternatives.iter().all(is_required);
    }
    rows
}

fn document(schema: &Value) -> String {
    let definitions = schema["$defs"].as_object().unwrap();
    let mut page = Page { definitions, text: HEAD.to_owned() };
    for (name, heading) in COMMANDS {
        page.section(&format!("## {heading}"), &definitions[name]);
    }
    let is_command = |name: &str| name == "inspect" || COMMANDS.iter().any(|(it, _)| *it == name);
    let parts: BTreeMap<_, _> = definitions.iter().filter(|(name, _)| !is_command(name)).collect();
    let (objects, others): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|(_, it)| !rows(it).is_empty());
    page.text += "\n## Parts\n";
    for (name, definition) in objects {
        page.section(&format!("### {name}"), definition);
    }
    page.text += "\n## Types\n\n| type | in JSON | meaning |\n|---|---|---|\n";
    for (name, definition) in others {
        let (json, meaning) = (page.type_of(definition), page.meaning(definition).unwrap());
        writeln!(page.text, "| {name} | {json} | {meaning} |").unwrap();
    }
    page.text
}

#[test]
fn json_document_is_that_of_the_schema() {
    let schema = fs::read_to_string(root().join("docs/summary.schema.json")).unwrap();
    assert_generated("docs/json.md", &document(&serde_json::from_str(&schema).unwrap()));
}
