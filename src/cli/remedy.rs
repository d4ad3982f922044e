//! Settings that an error recommends, as options of the command line.

use gpt_oss_export::error::{Error, Setting};

/// What to type, after the sentence of an error.
pub fn advice(error: &anyhow::Error) -> String {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    let remedies = errors.flat_map(Error::remedies);
    let options = remedies.map(|(setting, value)| format!("{} {value}", option(*setting)));
    let options: Vec<String> = options.map(|option| option.trim_end().to_owned()).collect();
    if options.is_empty() { String::new() } else { format!("; pass {}", options.join(" or ")) }
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
        Setting::MaxLength => "--max-length",
        Setting::MaxShardSize => "--max-shard-size",
        Setting::Onnxruntime => "--onnxruntime",
        Setting::Output => "--output",
        Setting::Provider => "--ep",
        Setting::Target => "--target",
        Setting::Tolerance => "--tolerance",
        setting => unreachable!("{setting:?} has an option"),
    }
}
