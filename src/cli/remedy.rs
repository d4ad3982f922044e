//! Settings that an error or a summary recommends, as options of the command line.

use gpt_oss_export::display::shell_quote;
use gpt_oss_export::error::{Error, Setting};

/// The sentences of an error, one for each thing that is wrong, with what to type.
pub fn sentences(error: &anyhow::Error) -> Vec<String> {
    let mut sentences = what_is_wrong(error);
    if let Err(error) = std::env::current_dir() {
        sentences.push(format!("there is no working folder ({error}): change to one that exists"));
    }
    sentences
}

fn what_is_wrong(error: &anyhow::Error) -> Vec<String> {
    let causes: Vec<&Error> = error.chain().filter_map(|cause| cause.downcast_ref()).collect();
    let Some(several) = causes.iter().find(|cause| cause.each().nth(1).is_some()) else {
        let remedies = causes.into_iter().flat_map(Error::remedies);
        return vec![format!("{error:#}{}", advice(remedies))];
    };
    let sentence = |it: &Error| format!("{}{}", it.sentence(), advice(it.remedies()));
    let mut sentences: Vec<String> = several.each().map(sentence).collect();
    // One line to paste, if all of it can be passed.
    let first = several.each().map(|it| it.remedies().first());
    if let Some(all) = first.collect::<Option<Vec<_>>>() {
        let all = all.into_iter().flatten().map(|(setting, value)| (*setting, &**value));
        sentences.push(format!("all of these can be passed together: {}", options(all)));
    }
    sentences
}

/// What to type, of alternatives that each need several settings together.
fn advice<'e>(remedies: impl IntoIterator<Item = &'e Vec<(Setting, String)>>) -> String {
    let together = |settings: &Vec<(Setting, String)>| {
        options(settings.iter().map(|(setting, value)| (*setting, &**value)))
    };
    let alternatives: Vec<String> = remedies.into_iter().map(together).collect();
    pass(&alternatives.join(" or "))
}

/// The end of a sentence that says what to type, if it is anything.
pub fn pass(options: &str) -> String {
    if options.is_empty() { String::new() } else { format!("; pass {options}") }
}

/// What to type to give all these settings their values.
pub fn options<'v>(settings: impl IntoIterator<Item = (Setting, &'v str)>) -> String {
    let typed = |(setting, value)| match value {
        "" => option(setting).to_owned(),
        value => format!("{} {}", option(setting), shell_quote(value)),
    };
    settings.into_iter().map(typed).collect::<Vec<String>>().join(" ")
}

fn option(setting: Setting) -> &'static str {
    match setting {
        Setting::AcceptRounding => "--accept-rounding",
        Setting::Compute => "--compute",
        Setting::DownloadDir => "--download-dir",
        Setting::ExternalData => "--external-data",
        Setting::Experts => "--experts",
        Setting::Genai => "--genai",
        Setting::IgnoreConfigKey => "--ignore-config-key",
        Setting::IgnoreTensor => "--ignore-tensor",
        Setting::KeepActivations => "--keep-activations",
        Setting::MaxLength => "--max-length",
        Setting::MaxShardSize => "--max-shard-size",
        Setting::Onnxruntime => "--onnxruntime",
        Setting::Output => "--output",
        Setting::Provider => "--ep",
        Setting::Target => "--target",
        Setting::Tolerance => "--tolerance",
    }
}
