//! Settings that an error or a summary recommends, as options of the command line.

use gpt_oss_export::display::shell_quote;
use gpt_oss_export::error::{Error, Setting};

/// What to type, after the sentence of an error.
pub fn advice(error: &anyhow::Error) -> String {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    let remedies = errors.flat_map(Error::remedies);
    pass(remedies.map(|(setting, value)| (*setting, &**value)), " or ")
}

/// What to type to give these settings their values: one of them or, between spaces, all.
pub fn pass<'v>(settings: impl IntoIterator<Item = (Setting, &'v str)>, separator: &str) -> String {
    let typed = |(setting, value)| match value {
        "" => option(setting).to_owned(),
        value => format!("{} {}", option(setting), shell_quote(value)),
    };
    let options: Vec<String> = settings.into_iter().map(typed).collect();
    if options.is_empty() { String::new() } else { format!("; pass {}", options.join(separator)) }
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
