//! Chat templates: messages as the text that a model continues.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Local;
use chrono::format::{Item, StrftimeItems};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Output, State, Value, context};
use serde_json::{Map, Value as Json};

use super::LARGEST_TEXT;
use crate::background::with_timeout;
use crate::display::{join, size};
use crate::error::{Result, bail, ensure, err};
use crate::files::{foreign, json};

/// The most bytes of a template: the released models' has 17 kB.
const LARGEST_TEMPLATE: u64 = 1 << 20;
/// The most bytes of a `tokenizer_config.json`.
const LARGEST_CONFIG: u64 = 16 << 20;

/// What a template may spend: a unit for each instruction, and for 64 bytes that it makes.
const FUEL: u64 = 4 << 20;
/// What a template may take. Not all that it does takes fuel: lists in lists are compared without.
const LONGEST_RENDERING: Duration = Duration::from_secs(5);

/// A message of a chat.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Such as `user`.
    pub role: &'m str,
    pub content: &'m str,
}

/// A template, and the special tokens that it may name.
#[derive(Clone)]
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    /// Tokens by their roles, such as `eos_token`.
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// The template in a folder: `chat_template.jinja`, otherwise the one in
    /// `tokenizer_config.json`, as transformers chooses.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let config_path = folder.join("tokenizer_config.json");
        let mut config = Map::new();
        if config_path.symlink_metadata().is_ok() {
            let text = json::read(&config_path, LARGEST_CONFIG)?;
            config = json::parse(config_path.display(), &text)?;
        }
        let path = folder.join("chat_template.jinja");
        let found = if path.symlink_metadata().is_ok() {
            Some((read_template(&path)?, path))
        } else if let Some(value) = config.remove("chat_template") {
            Some((default_template(value, &config_path)?, config_path))
        } else {
            None
        };
        let roles = config.iter().filter(|(key, _)| key.ends_with("_token"));
        let tokens = roles.filter_map(|(role, value)| Some((role.clone(), token(value)?.into())));
        let tokens = tokens.collect();
        Ok(found.map(|(source, path)| Self { path, source, tokens }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same text.
    pub fn equals(&self, other: &Self) -> bool {
        self.source.trim() == other.source.trim()
    }

    /// The text of messages up to where the assistant's answer begins.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let messages =
            messages.iter().map(|it| context! { role => it.role, content => it.content });
        let (template, messages) = (self.clone(), messages.collect());
        let rendered = with_timeout(LONGEST_RENDERING, move || template.render_values(messages))?;
        let shown = self.path.display();
        let rendered = rendered.unwrap_or_else(|| {
            let limit = LONGEST_RENDERING.as_secs();
            bail!("`{shown}` cannot be applied to the chat: it takes longer than {limit} s; correct it, or give the whole prompt as text")
        })?;
        ensure!(
            !rendered.is_empty(),
            "`{shown}` makes no text of the chat: correct it, or give the whole prompt as text"
        );
        Ok(rendered)
    }

    fn render_values(&self, messages: Vec<Value>) -> Result<String> {
        let shown = self.path.display();
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters"));
        environment.set_formatter(write_bounded);
        environment.add_function("strftime_now", strftime_now);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        let tokens = Value::from(self.tokens.clone());
        let context = context! { messages, add_generation_prompt => true, ..tokens };
        let source = without_training_tags(&self.source);
        let text = environment.render_named_str("template", &source, context);
        let text = text.map_err(|error| {
            let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
            let reason = match error.kind() {
                ErrorKind::OutOfFuel => "it does not end, or makes too long a text".to_owned(),
                kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
            };
            err!("`{shown}` cannot be applied to the chat: {reason}{line}; correct it, or give the whole prompt as text")
        })?;
        let (bytes, most) = (size(text.len() as u64), size(LARGEST_TEXT));
        ensure!(
            text.len() as u64 <= LARGEST_TEXT,
            "`{shown}` makes a text of {bytes}, expected at most {most}: correct it, or give the whole prompt as text"
        );
        Ok(text)
    }
}

fn read_template(path: &Path) -> Result<String> {
    let (shown, bytes) = (path.display(), json::read(path, LARGEST_TEMPLATE)?);
    let text = String::from_utf8(bytes);
    let text =
        text.map_err(|_| err!("`{shown}` is not UTF-8: save it as UTF-8, or download it again"))?;
    ensure!(!text.trim().is_empty(), "`{shown}` is empty: download it again, or delete it");
    let is_template = ["{{", "{%"].iter().any(|start| text.contains(start));
    if let Some(what) = foreign::identify(text.as_bytes()).filter(|_| !is_template) {
        bail!("`{shown}` is {what}");
    }
    Ok(text)
}

/// A template whose tags `generation`, by which transformers finds what to train on, do nothing.
fn without_training_tags(source: &str) -> String {
    let tag = |(at, part): (usize, &str)| {
        let (tag, rest) = part.split_once("%}").filter(|_| at > 0)?;
        let plain = match tag.trim_matches(|c: char| c.is_whitespace() || "+-".contains(c)) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => return None,
        };
        Some(format!("{plain}%}}{rest}"))
    };
    let parts = source.split("{%").enumerate();
    let parts = parts.map(|it| tag(it).unwrap_or_else(|| it.1.to_owned()));
    parts.collect::<Vec<_>>().join("{%")
}

/// The template of a config: a text, or the one called `default` of several.
fn default_template(value: Json, path: &Path) -> Result<String> {
    let shown = path.display();
    let named = match value {
        Json::String(text) => return Ok(text),
        Json::Array(named) => named,
        _ => bail!("`{shown}`: `chat_template` must be a text or a list of named ones; correct it"),
    };
    let name = |it: &Json| it["name"].as_str().unwrap_or_default().to_owned();
    let default = named.iter().find(|it| name(it) == "default");
    if let Some(text) = default.and_then(|it| it["template"].as_str()) {
        return Ok(text.to_owned());
    }
    let names = join(&named.iter().map(name).collect::<Vec<_>>());
    bail!("`{shown}`: no `chat_template` is called `default` among {names}: rename the one to use")
}

/// The name of a special token: a text, or an object with its content.
fn token(value: &Json) -> Option<&str> {
    value.get("content").unwrap_or(value).as_str()
}

/// The time in the system's time zone, as Python's `datetime.now().strftime` writes it.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        let problem = format!("`{format}` is no format of a time");
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
    }
    Ok(Local::now().format_with_items(items.iter()).to_string())
}

/// Writes a value, of which lists in lists may be without end.
fn write_bounded(out: &mut Output, _: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    if value.is_undefined() {
        return Ok(());
    }
    let mut bounded = Bounded { out, left: LARGEST_TEXT as usize };
    write!(bounded, "{value}").map_err(|_| minijinja::Error::from(ErrorKind::OutOfFuel))
}

/// Takes so many bytes.
struct Bounded<'o, 'w> {
    out: &'o mut Output<'w>,
    left: usize,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.out.write_str(text)
    }
}

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// JSON as Python writes it. Messages have texts alone.
fn to_json(value: &Value) -> Result<String, minijinja::Error> {
    let Some(text) = value.as_str() else {
        let problem = "`tojson` is implemented for texts alone";
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
    };
    Ok(Json::from(text).to_string())
}
