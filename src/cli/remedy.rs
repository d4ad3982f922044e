//! Settings that an error or a summary recommends, as options of the command line.

use gpt_oss_export::display::shell_quote;
use gpt_oss_export::error::{Error, Setting};

/// What to type, after the sentence of an error.
pub fn advice(error: &anyhow::Error) -> String {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    let together = |settings: &Vec<(Setting, String)>| {
        options(settings.iter().map(|(setting, value)| (*setting, &**value)))
    };
    let alternatives: Vec<String> = errors.flat_map(Error::remedies).map(together).collect();
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
