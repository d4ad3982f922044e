//! Files of other formats: named in errors, with what to use instead.

use std::path::Path;

use crate::error::{Error, Result, ensure, err};

const ADAPTER_CONFIG: &str = "adapter_config.json";
const PYTORCH: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];
/// Prefixes of files that training writes beside a checkpoint.
const TRAINING_STATE: [&str; 5] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];

pub const MERGE_ADAPTER: &str = "merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result";
pub const USE_SOURCE: &str = "use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b";

/// The format of a file of this name, if it is a known one that cannot be read, and what to
/// use instead.
pub fn identify(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    if name == ADAPTER_CONFIG || name.starts_with("adapter_model.") {
        Some(format!("a LoRA adapter: {MERGE_ADAPTER}"))
    } else if name.ends_with(".gguf") {
        Some(format!("GGUF, llama.cpp's format: {USE_SOURCE}"))
    } else if name == "model.bin" {
        Some("OpenAI's format for Metal: use the same model in SafeTensors, in the folder `original` or the root of the repository".to_owned())
    } else if PYTORCH.iter().any(|extension| name.ends_with(extension))
        && !TRAINING_STATE.iter().any(|prefix| name.starts_with(prefix))
    {
        Some("PyTorch's format, which can run code when it is read: load it in transformers and save it as SafeTensors (save_pretrained does)".to_owned())
    } else {
        None
    }
}

/// The refusal of a file in a known format.
pub fn refuse_file(path: &Path) -> Option<Error> {
    let identified = identify(path.file_name()?.to_str()?)?;
    Some(err!("`{}` is {identified}", path.display()))
}

/// Refuses an adapter beside a whole model, whose result it would change.
pub fn refuse_adapter(folder: &Path) -> Result<()> {
    let path = folder.join(ADAPTER_CONFIG);
    ensure!(
        !path.exists(),
        "`{}` is a LoRA adapter beside a whole model: {MERGE_ADAPTER}, or move it away if this model is the result",
        path.display()
    );
    Ok(())
}
