//! Settings that an error or a summary recommends, as options of the command line.

use std::error::Error as StdError;
use std::fmt;
use std::iter::from_fn;

use gpt_oss_export::display::shell_quote;
use gpt_oss_export::error::{Error, Setting};
use serde::Serialize;

/// Settings without a value.
const FLAGS: [Setting; 5] = [
    Setting::AcceptRounding,
    Setting::Genai,
    Setting::IgnoreZeros,
    Setting::KeepActivations,
    Setting::KvCache,
];

/// What a command calls a setting; `None` if only an export has it. `Some` is that of an export.
pub type Has = fn(Setting) -> Option<Setting>;

/// One thing that is wrong, and what to type against it: alternatives, the best first.
#[derive(Serialize)]
pub struct Refusal {
    pub sentence: String,
    pub remedies: Vec<String>,
    /// What to type to export another model instead, where the command is no export.
    #[serde(skip)]
    exports: Vec<String>,
    /// Commands that tell more.
    #[serde(skip)]
    commands: Vec<String>,
}

impl Refusal {
    /// Of an error and its causes, each with its first sentence, of a command that `has` some
    /// settings, perhaps by another name.
    fn of<'e>(chain: impl Iterator<Item = &'e (dyn StdError + 'static)>, has: Has) -> Self {
        let mut sentences = Vec::new();
        let (mut remedies, mut exports, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        for cause in chain {
            let error = cause.downcast_ref::<Error>();
            sentences.push(error.map_or_else(|| cause.to_string(), |it| it.sentence().to_owned()));
            for settings in error.into_iter().flat_map(Error::remedies).filter(|it| !it.is_empty())
            {
                let named = |(it, value): &(Setting, String)| Some((has(*it)?, value.clone()));
                let named: Option<Vec<_>> = settings.iter().map(named).collect();
                if settings.iter().all(|(setting, _)| *setting == Setting::Scan) {
                    let command = |it| format!("`{}`", together([&vec![it]]));
                    commands.extend(settings.iter().cloned().map(command));
                } else if let Some(named) = named {
                    remedies.push(together([&named]));
                } else {
                    exports.push(together([settings]));
                }
            }
        }
        Self { sentence: sentences.join(": "), remedies, exports, commands }
    }

    /// Everything that is wrong, one by one.
    pub fn each(error: &Error, has: Has) -> Vec<Self> {
        error.each().map(|it| Self::of(causes(it), has)).collect()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = [("pass", &self.remedies), ("export with", &self.exports)];
        let ways = ways.iter().filter(|(_, options)| !options.is_empty());
        let ways = ways.map(|(verb, options)| format!("{verb} {}", options.join(" or ")));
        let ways = ways.collect::<Vec<_>>().join(", or ");
        let separator = if ways.is_empty() { "" } else { "; " };
        write!(f, "{}{separator}{ways}", self.sentence)?;
        match &self.commands[..] {
            [] => Ok(()),
            commands => write!(f, "; {} tells which", commands.join(" or ")),
        }
    }
}

/// An error and its causes.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

/// What to print of an error: a line for each thing that is wrong, below the context that they
/// have in common, and one to paste. The command `has` some settings.
pub fn report(error: &anyhow::Error, has: Has) -> Vec<String> {
    let chain: Vec<_> = error.chain().collect();
    let several = chain.iter().enumerate().find_map(|(at, cause)| {
        let error = cause.downcast_ref::<Error>()?;
        error.each().nth(1).map(|_| (at, error))
    });
    let line = |it: &dyn fmt::Display| format!("error: {it}");
    let mut lines = Vec::new();
    if let Some((at, several)) = several {
        let context = Refusal::of(chain[..at].iter().copied(), has);
        lines.extend((at > 0).then(|| line(&format!("{context}:"))));
        lines.extend(Refusal::each(several, has).iter().map(|it| line(it)));
        lines.extend(one_line(several).map(|options| format!("help: {options}")));
    } else {
        lines.push(line(&Refusal::of(error.chain(), has)));
    }
    if let Err(error) = std::env::current_dir() {
        lines
            .push(format!("help: there is no working folder ({error}): change to one that exists"));
    }
    lines
}

/// What to type against several things that are wrong, but for those between whose remedies a
/// reader has to choose.
fn one_line(several: &Error) -> Option<String> {
    let (clear, others): (Vec<_>, Vec<_>) = several.each().partition(|it| it.remedies().len() == 1);
    let which = if others.is_empty() { "all of these" } else { "those with one option" };
    let settings = together(clear.iter().flat_map(|it| it.remedies()));
    (clear.len() > 1).then(|| format!("{which} can be passed together: {settings}"))
}

/// What to type to give all these settings their values, each once.
fn together<'e>(remedies: impl IntoIterator<Item = &'e Vec<(Setting, String)>>) -> String {
    let mut all: Vec<(Setting, &str)> = Vec::new();
    for (setting, value) in remedies.into_iter().flatten() {
        if !all.contains(&(*setting, value)) {
            all.push((*setting, value));
        }
    }
    options(all)
}

/// The end of a sentence that says what to type, if it is anything.
pub fn pass(options: &str) -> String {
    if options.is_empty() { String::new() } else { format!("; pass {options}") }
}

/// What to type to give all these settings their values.
pub fn options<'v>(settings: impl IntoIterator<Item = (Setting, &'v str)>) -> String {
    let typed = |(setting, value): (Setting, &str)| match value {
        _ if FLAGS.contains(&setting) => option(setting).to_owned(),
        // Otherwise it would be an option itself.
        value if value.starts_with('-') => format!("{}={}", option(setting), shell_quote(value)),
        value => format!("{} {}", option(setting), shell_quote(value)),
    };
    settings.into_iter().map(typed).collect::<Vec<String>>().join(" ")
}

fn option(setting: Setting) -> &'static str {
    match setting {
        Setting::AcceptRounding => "--accept-rounding",
        Setting::Adapter => "--adapter",
        Setting::AdapterAs => "--adapter-as",
        Setting::AdapterLayout => "--adapter-layout",
        Setting::AdapterModules => "--adapter-modules",
        Setting::BatchSize => "--batch-size",
        Setting::Checkpoint => "--checkpoint",
        Setting::Compute => "--compute",
        Setting::Dense => "--dense",
        Setting::DownloadDir => "--download-dir",
        Setting::ExternalData => "--external-data",
        Setting::Experts => "--experts",
        Setting::Genai => "--genai",
        Setting::IgnoreConfigKey => "--ignore-config-key",
        Setting::IgnoreTensor => "--ignore-tensor",
        Setting::IgnoreZeros => "--ignore-zeros",
        Setting::KeepActivations => "--keep-activations",
        Setting::KvCache => "--kv-cache",
        Setting::Layers => "--layers",
        Setting::MaxLength => "--max-length",
        Setting::MaxShardSize => "--max-shard-size",
        Setting::Onnxruntime => "--onnxruntime",
        Setting::Output => "--output",
        Setting::Provider => "--ep",
        Setting::Scan => "inspect --scan",
        Setting::SlidingCache => "--sliding-cache",
        Setting::Stages => "--stages",
        Setting::Target => "--target",
        Setting::TextField => "--text-field",
        Setting::Tokenizer => "--tokenizer",
        Setting::Tokens => "--tokens",
        Setting::Tolerance => "--tolerance",
        Setting::Weights => "--weights",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_lines_below_their_context() {
        let ignore = |name: &str| {
            Error::new(format!("unknown `{name}`")).with_remedy(Setting::IgnoreTensor, name)
        };
        let several = |errors: Vec<Error>| Error::all(errors).unwrap_err();
        let io = || Error::new("cannot read `a`").with_source(std::io::Error::other("broken"));
        let in_context = |error| anyhow::Error::new(error).context("written, not verified");
        let help = "help: all of these can be passed together: --ignore-tensor a --ignore-tensor b";
        let table: [(anyhow::Error, &[&str]); 5] = [
            (anyhow::anyhow!("one").context("two"), &["error: two: one"]),
            (
                in_context(ignore("a").with_source(io())),
                &[
                    "error: written, not verified: unknown `a`: cannot read `a`: broken; pass --ignore-tensor a",
                ],
            ),
            (
                in_context(several(vec![ignore("a"), ignore("b"), ignore("a")])),
                &[
                    "error: written, not verified:",
                    "error: unknown `a`; pass --ignore-tensor a",
                    "error: unknown `b`; pass --ignore-tensor b",
                    "error: unknown `a`; pass --ignore-tensor a",
                    help,
                ],
            ),
            (
                Error::new("cannot write").with_source(several(vec![ignore("a"), io()])).into(),
                &[
                    "error: cannot write:",
                    "error: unknown `a`; pass --ignore-tensor a",
                    "error: cannot read `a`: broken",
                ],
            ),
            (
                several(vec![several(vec![ignore("a"), ignore("b")]), ignore("b")]).into(),
                &[
                    "error: unknown `a`; pass --ignore-tensor a",
                    "error: unknown `b`; pass --ignore-tensor b",
                    "error: unknown `b`; pass --ignore-tensor b",
                    help,
                ],
            ),
        ];
        for (error, lines) in table {
            assert_eq!(report(&error, Some), lines);
        }
    }
}
