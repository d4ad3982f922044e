//! What is not read, known by names of files, first bytes or names of tensors: other formats, and
//! what comes in the place of a file.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

use fs_err::File;
use glob::Pattern;

/// As many first bytes of a file as [`identify`] looks at.
pub const FIRST_BYTES: usize = 256;
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Most characters of a text that are shown.
const SHOWN: usize = 60;

/// A name, and what it stands for.
pub type ForeignName<'n> = (&'n str, &'static Foreign);

/// Something that is not read, and what to do about it.
pub struct Foreign {
    /// A noun phrase.
    pub what: &'static str,
    /// What to do about a checkpoint of it.
    pub remedy: &'static str,
    /// What to do about an adapter of it, if that differs.
    adapter_remedy: Option<&'static str>,
    /// Whether a checkpoint can be exported with it.
    pub is_adapter: bool,
    /// Whether each process of a training saved a part, beside a folder with the config.
    pub is_in_parts: bool,
    /// Whether it tells that the file beside it lacks data, although that may have its whole length.
    is_beside_file: bool,
    /// Patterns of names of files and folders; of names joined by `+` all have to be there.
    files: &'static str,
    /// Patterns of names of tensors.
    tensors: &'static str,
    /// First bytes.
    bytes: &'static [&'static [u8]],
}

pub const MERGE_ADAPTER: &str = "merge it into its base model (merge_and_unload of PEFT, then save_pretrained) and export the result";
pub const MERGE_MLX: &str =
    "merge it into its base model with mlx_lm.fuse, dequantized, and export the result";
/// Why tensors are empty, and what to do.
pub const NOT_GATHERED: &str = "as DeepSpeed ZeRO-3 saves weights that were not gathered: save again with `stage3_gather_16bit_weights_on_model_save`";
pub const USE_SOURCE: &str = "use the SafeTensors checkpoint that it was made from, such as openai/gpt-oss-20b or openai/gpt-oss-120b";
const SAVE_AGAIN: &str =
    "load it in transformers and save it as SafeTensors (save_pretrained does)";
const CONVERT: &str =
    "convert it to Hugging Face's names and SafeTensors with the program that wrote it";
const UNPACK: &str = "unpack it, and use the files that are in it";
const DOWNLOAD: &str = "download it again";

const PYTORCH: Foreign = of("PyTorch's format, which can run code when it is read", SAVE_AGAIN)
    .files("*.bin *.pt *.pth *.ckpt")
    .of_adapter("load it in PEFT and save it as SafeTensors (save_pretrained does)");
const UTF16: Foreign = of("text in UTF-16, expected UTF-8", "save it in UTF-8");

/// The first that has a name or the first bytes counts. All of these are in lower case.
const KNOWN: [Foreign; 56] = [
    of(
        "mlx-lm's format of adapters",
        MERGE_MLX,
    )
    .files("adapters.safetensors *_adapters.safetensors"),
    of(
        "one of several files of a LoRA adapter, which is read from one",
        "join them under the name adapter_model.safetensors",
    )
    .files("adapter_model-*-of-*.safetensors"),
    Foreign {
        is_adapter: true,
        ..of("a LoRA adapter", "export the checkpoint of its base model with it")
    }
    .files("adapter_config.json adapter_model*"),
    of("a LoRA adapter that is not merged", MERGE_ADAPTER).tensors("*lora_*"),
    of(
        "the base layers of a LoRA adapter without its factors",
        "save the model again with the adapter merged (merge_and_unload of PEFT, then save_pretrained), or take `.base_layer` out of the names to export the base alone",
    )
    .tensors("*.base_layer.*"),
    of("GGUF, llama.cpp's format", USE_SOURCE)
        .files("*.gguf")
        .bytes(&[b"gguf"])
        .of_adapter("use the adapter that it was converted from"),
    of("GGML, llama.cpp's former format", USE_SOURCE).bytes(&[b"ggml"]),
    of("Ollama's store of models, in GGUF", USE_SOURCE).files("manifests+blobs sha256-*"),
    of("OpenVINO's format", USE_SOURCE).files("openvino_*.bin openvino_*.xml *.bin+model.xml"),
    of("CTranslate2's format", USE_SOURCE)
        .files("model.bin+vocabulary.* model.bin+shared_vocabulary.*"),
    of("OpenAI's format for Metal", USE_SOURCE).files("model.bin"),
    of("an engine of TensorRT-LLM", USE_SOURCE).files("*.engine"),
    of(
        "verl's format for FSDP, in parts as each process saved them",
        "run `python -m verl.model_merger merge --backend fsdp --local_dir FOLDER --target_dir OUTPUT` on the folder of these files and export OUTPUT",
    )
    .in_parts()
    .files("model_world_size_*_rank_*.pt"),
    of("Nanotron's format, in parts as each process saved them", CONVERT)
        .in_parts()
        .files("checkpoint_metadata.json+model_config.json"),
    of(
        "DeepSpeed's format, in parts as each process saved them",
        "run `python zero_to_fp32.py . OUTPUT` with its option safe_serialization in the folder of zero_to_fp32.py, add config.json to OUTPUT and export that",
    )
    .in_parts()
    .files("global_step[0-9]* zero_to_fp32.py *zero_pp_rank_*_states.pt mp_rank_*_states.pt"),
    of(
        "NeMo's or Megatron's format",
        "convert it to Hugging Face's (llm.export_ckpt of NeMo and AutoBridge of Megatron-Bridge do) and export the result",
    )
    .in_parts()
    .files("*.nemo weights+context *.distcp+common.pt latest_checkpointed_iteration.txt iter_0* mp_rank_*"),
    of(
        "PyTorch's format of distributed checkpoints (DCP), in parts as each process saved them",
        "run `accelerate merge-weights FOLDER OUTPUT` on the folder of the .distcp files, add config.json and export the result",
    )
    .in_parts()
    .files("*.distcp pytorch_model_fsdp_*"),
    of(
        "a part of vLLM's sharded state, with a slice of each tensor for one process",
        USE_SOURCE,
    )
    .in_parts()
    .files("model-rank-*-part-*.safetensors"),
    of("Orbax's format, of JAX programs", CONVERT)
        .files("_checkpoint_metadata _metadata manifest.ocdbt ocdbt.process_*"),
    of("Flax's format", CONVERT).files("*.msgpack"),
    of("TensorFlow's format", CONVERT)
        .files("*.h5 *.keras saved_model.pb *.ckpt.index")
        .bytes(&[b"\x89hdf\r\n"])
        .of_adapter("use the adapter that PEFT saved as SafeTensors"),
    of("an array of NumPy", CONVERT).files("*.npy *.npz").bytes(&[b"\x93numpy"]),
    of("PyTorch's format, with names that are not Hugging Face's", CONVERT)
        .files("consolidated*.pth"),
    of(
        "torchtune's save in PyTorch's format",
        "save it as SafeTensors (`safe_serialization: True` of its FullModelHFCheckpointer) and export the result",
    )
    .files("hf_model_*.pt"),
    of("an index of files in PyTorch's format", SAVE_AGAIN).files("*.bin.index.json"),
    PYTORCH,
    of(
        "the state of an unfinished download by aria2",
        "run `aria2c -c` with the same address in this folder, or delete the state if the file is whole",
    )
    .beside_file()
    .files("*.aria2"),
    of(
        "the state of an unfinished download by axel",
        "run `axel` with the same address in this folder, or delete the state if the file is whole",
    )
    .beside_file()
    .files("*.safetensors.st *.json.st"),
    of(
        "the state of an unfinished download by lftp",
        "run `pget -c` of lftp with the same address in this folder, or delete the state if the file is whole",
    )
    .beside_file()
    .files("*.lftp-pget-status"),
    of("an unfinished download", DOWNLOAD)
        .files("*.incomplete *.part *.partial *.filepart *.crdownload *.opdownload *.download *.downloading *.!qb *.!ut *.safetensors.tmp *.json.tmp *.safetensors.temp *.json.temp")
        .bytes(&[&[0; 8]]),
    of("the lock of a download that is under way or was killed", "wait for it, or download the file again")
        .files("*.safetensors.lock *.json.lock"),
    of("a placeholder of iCloud, not the file itself", "run `brctl download` on it, or download it in the Finder")
        .files("?*.icloud"),
    of("an unfinished copy by rsync", "run the same `rsync` again, which begins this file anew")
        .files(".*.safetensors.?????? .*.json.??????"),
    ARCHIVE,
    of(
        "a part of a file that was split",
        "join all parts in the order of their names, as `cat FILE.part-* > FILE` does",
    )
    .files("*.part-[a-z0-9]* *.part[a-z][a-z] *.part[0-9]* *.part.[0-9]* *.safetensors.[a-z][a-z] *.safetensors-[a-z][a-z] *.safetensors.[0-9][0-9] *.safetensors.[0-9][0-9][0-9] *.split-*"),
    of("a pointer of DVC, not the file itself", "run `dvc pull` in its folder").files("?*.dvc"),
    of(
        "a ZIP archive, as files of PyTorch are too",
        "unpack it, or load it in transformers and save it as SafeTensors (save_pretrained does)",
    )
    .bytes(&[b"pk\x03\x04"]),
    of(
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull` in its clone, or download it again from the hub",
    )
    .bytes(&[b"version http", b"# xet version"]),
    of(
        "a pointer of git-annex, not the file itself",
        "run `git annex get` on it in its clone",
    )
    .bytes(&[b"/annex/objects/"]),
    of("an HTML page, not the file itself", DOWNLOAD)
        .bytes(&[b"<!doctype html", b"<html", b"<head"]),
    of("an XML or PDF document, not the file itself", DOWNLOAD)
        .bytes(&[b"<?xml", b"<error>", b"%pdf"]),
    of("a config in Meta's or Mistral's format", USE_SOURCE).files("params.json"),
    of("an ONNX model and no checkpoint", USE_SOURCE).files("*.onnx *.onnx_data *.onnx.data"),
    of("a model quantized by GPTQ", USE_SOURCE).tensors("*.g_idx"),
    of("a model quantized by GPTQ or AWQ", USE_SOURCE).tensors("*qweight *qzeros"),
    of("a model quantized by bitsandbytes", USE_SOURCE)
        .tensors("*.absmax *.quant_map *.nested_absmax *.quant_state.* *.scb *.weight_format"),
    of("a model quantized to ModelOpt's NVFP4", USE_SOURCE).tensors("*weight_scale_2"),
    of("a model quantized by compressed-tensors", USE_SOURCE)
        .tensors("*weight_packed *weight_shape *weight_global_scale *weight_zero_point"),
    of("a model quantized to FP8, NVFP4 or MXFP4, with scales under other names", USE_SOURCE)
        .tensors("*weight_scale *scale_inv *input_scale *.scale_weight *.scale_input"),
    of("a model quantized by HQQ", USE_SOURCE).tensors("*.w_q"),
    of("a model quantized by quanto", USE_SOURCE).tensors("*._data *._scale"),
    of("a model quantized by torchao", USE_SOURCE).tensors("*_qdata"),
    of("a model quantized by AQLM or EXL", USE_SOURCE).tensors("*.codebooks *.q_weight *.trellis"),
    of("a model quantized by MLX", USE_SOURCE).tensors("*.biases"),
    of(
        "q, k and v in one tensor as Megatron has them",
        "save it in Hugging Face's layout by the program that trained it: rows lie in groups, each with the queries of one key head, its key and its value, and three parts of rows would be another model",
    )
    .tensors("*.query_key_value.* *.linear_qkv.* *.wqkv.*"),
    of(
        "q, k and v in one tensor",
        "split its rows into `q_proj`, `k_proj` and `v_proj`, in the order in which they were joined, and export the result",
    )
    .tensors("*.qkv_proj.* *.self_attn.qkv.* *.c_attn.*"),
];

/// Before parts of files, whose names end in two letters too.
const ARCHIVE: Foreign = of("an archive or a compressed file", UNPACK)
    .files("*.tar *.tar.* *.tgz *.tbz2 *.txz *.zip *.7z *.rar *.gz *.xz *.zst *.bz2 *.lz4")
    .bytes(&[b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zxz\0", b"bzh", b"7z\xbc\xaf\x27\x1c"]);

const fn of(what: &'static str, remedy: &'static str) -> Foreign {
    Foreign {
        what,
        remedy,
        adapter_remedy: None,
        is_adapter: false,
        is_in_parts: false,
        is_beside_file: false,
        files: "",
        tensors: "",
        bytes: &[],
    }
}

impl Foreign {
    const fn in_parts(self) -> Self {
        Self { is_in_parts: true, ..self }
    }

    const fn beside_file(self) -> Self {
        Self { is_beside_file: true, ..self }
    }

    const fn files(self, files: &'static str) -> Self {
        Self { files, ..self }
    }

    const fn tensors(self, tensors: &'static str) -> Self {
        Self { tensors, ..self }
    }

    const fn bytes(self, bytes: &'static [&'static [u8]]) -> Self {
        Self { bytes, ..self }
    }

    const fn of_adapter(self, remedy: &'static str) -> Self {
        Self { adapter_remedy: Some(remedy), ..self }
    }

    /// What some names of files and folders at one place stand for, and the first of these.
    pub fn of_files<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<ForeignName<'n>> {
        Self::find(names, |it| it.files)
    }

    /// The same in the folder of an adapter, and what to do about it.
    pub fn in_adapter<'n>(
        names: impl IntoIterator<Item = &'n str>,
    ) -> Option<(&'n str, &'static Self, &'static str)> {
        let (name, found) = Self::find(names, |it| if it.is_adapter { "" } else { it.files })?;
        Some((name, found, found.adapter_remedy.unwrap_or(found.remedy)))
    }

    /// What is there in the place of a file of this name, or tells that it lacks data: of some names at
    /// one place the first that belongs to the file, and what it stands for.
    pub fn instead_of<'n>(file: &str, names: &'n BTreeSet<String>) -> Option<ForeignName<'n>> {
        let is_of_file = |name: &&str| {
            let rest = name.trim_start_matches('.').strip_prefix(file);
            rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(".index."))
        };
        let own = names.iter().map(String::as_str).filter(is_of_file);
        Self::of_files(own).filter(|(_, it)| it.is_beside_file || !names.contains(file))
    }

    /// What a file with these first bytes is.
    pub fn of_bytes(first: &[u8]) -> Option<&'static Self> {
        let lower = beginning(first).to_ascii_lowercase();
        let begins = |known: &&Self| known.bytes.iter().any(|start| lower.starts_with(start));
        match first {
            _ if is_utf16(first) => Some(&UTF16),
            _ if is_pickle(first) => Some(&PYTORCH),
            _ => KNOWN.iter().find(begins),
        }
    }

    /// What some names of tensors stand for, and the first of these.
    pub fn of_tensors<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<ForeignName<'n>> {
        Self::find(names, |it| it.tensors)
    }

    fn find<'n>(
        names: impl IntoIterator<Item = &'n str>,
        patterns: fn(&Self) -> &'static str,
    ) -> Option<ForeignName<'n>> {
        let names: Vec<&str> = names.into_iter().collect();
        let lower: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
        let first = |pattern: &str| {
            let pattern = Pattern::new(pattern).expect("a pattern of a table");
            Some(names[lower.iter().position(|name| pattern.matches(name))?])
        };
        KNOWN.iter().find_map(|known| {
            let all = |joined: &str| joined.split('+').map(first).collect::<Option<Vec<_>>>();
            Some((patterns(known).split_whitespace().find_map(all)?[0], known))
        })
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// What a file is by its first bytes if it is neither an object of JSON nor SafeTensors, or
/// a server's message in JSON; and what to do.
pub fn identify(first: &[u8]) -> Option<String> {
    let first = &first[..first.len().min(FIRST_BYTES)];
    if let Some(known) = Foreign::of_bytes(first) {
        return Some(known.to_string());
    }
    let text = beginning(first);
    // The last character may be cut off.
    let shown = text.utf8_chunks().next()?.valid();
    let is_text = shown.len() + 3 >= text.len()
        && !shown.contains(|it: char| it.is_control() && !it.is_whitespace());
    let is_error = text.to_ascii_lowercase().starts_with(b"{\"error\"");
    let is_message = shown.starts_with(char::is_alphanumeric) || is_error;
    let line: String = shown.lines().next()?.trim_end().chars().take(SHOWN).collect();
    (is_text && is_message)
        .then(|| format!("a text that begins {line:?}, not the file itself: {DOWNLOAD}"))
}

/// The first bytes of a file, at most [`FIRST_BYTES`]; none if it cannot be read.
pub fn first_bytes(file: &Path) -> Vec<u8> {
    let mut first = Vec::new();
    let read = File::open(file).map(|it| it.take(FIRST_BYTES as u64).read_to_end(&mut first));
    if matches!(read, Ok(Ok(_))) { first } else { Vec::new() }
}

/// A text without its byte order mark and the white space at its start.
fn beginning(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii_start()
}

/// Whether these are the version of a pickle and a first opcode: a number, a frame, a dictionary, a
/// list, a tuple or a class. The length of a SafeTensors header is smaller.
fn is_pickle(first: &[u8]) -> bool {
    let opcode = first.get(2);
    first.starts_with(b"\x80")
        && first.get(1).is_some_and(|version| (2..=5).contains(version))
        && opcode.is_some_and(|opcode| b"\x8a\x95}](c".contains(opcode))
}

/// Whether each character takes two bytes, of which one is zero.
fn is_utf16(first: &[u8]) -> bool {
    let marked = [b"\xff\xfe", b"\xfe\xff"].iter().find_map(|mark| first.strip_prefix(*mark));
    let (units, _) = marked.unwrap_or(first).as_chunks::<2>();
    // The length of a SafeTensors header has several zeros in its eight bytes.
    let units = &units[..units.len().min(4)];
    let zero = |half: usize| units.iter().all(|unit| unit[half] == 0 && unit[1 - half] != 0);
    !units.is_empty() && (zero(0) || zero(1))
}
