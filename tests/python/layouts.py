"""Checkpoints for `compare_exports.py`, derived from the fixtures by the definitions of the
layouts in docs/checkpoints.md.

The fixtures `tiny-hf` and `tiny-128` are in Hugging Face's layout with MXFP4 experts. The
other layouts differ from it in the tensors of the experts alone."""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

FIXTURES = Path(__file__).parent.parent / "fixtures"
# NumPy has neither BF16 nor FP8: their bits are kept as integers.
STORAGE = {"U8": np.uint8, "F8_E5M2": np.uint8, "BF16": np.uint16, "F16": np.float16, "F32": np.float32}
# Layouts with one tensor of numbers for all experts, and its dtype.
WHOLE = {"bf16": "BF16", "f16": "F16", "f32": "F32", "fp8": "F8_E5M2"}
LAYOUTS = [*WHOLE, "split", "linears"]
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class Tensor(NamedTuple):
    dtype: str
    data: np.ndarray


def read(path):
    """The tensors of a SafeTensors file."""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (begin + offset for offset in entry["data_offsets"])
        data = np.frombuffer(raw[start:end], STORAGE[entry["dtype"]])
        tensors[name] = Tensor(entry["dtype"], data.reshape(entry["shape"]))
    return tensors


def encode_header(entries):
    """The length and the header of a SafeTensors file, from (name, dtype, shape, byte length)."""
    header, end = {}, 0
    for name, dtype, shape, length in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def write(path, tensors):
    entries = [(name, t.dtype, t.data.shape, t.data.nbytes) for name, t in tensors.items()]
    header, _ = encode_header(entries)
    path.write_bytes(header + b"".join(tensor.data.tobytes() for tensor in tensors.values()))


def write_checkpoint(folder, config, tensors):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write(folder / "model.safetensors", tensors)


def write_shards(folder, config, tensors):
    """Three shards "of 2", named by an index, with tensors dealt out in turn: an expert's
    blocks and scales are apart."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = [f"model-{shard:05}-of-00002.safetensors" for shard in range(3)]
    weight_map = {tensor: names[at % 3] for at, tensor in enumerate(sorted(tensors))}
    for name in names:
        write(folder / name, {t: tensors[t] for t, file in weight_map.items() if file == name})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def dequantize(blocks, scales):
    """Numbers [experts, out, in]: the low half of a byte comes first, and a scale is a power
    of two for 32 numbers."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, 32)
    numbers = np.ldexp(FP4[codes], scales[..., None].astype(np.int32) - 127)
    return numbers.reshape(*scales.shape[:2], -1)


def encode(numbers, dtype):
    numbers = np.ascontiguousarray(numbers, np.float32)
    if dtype == "BF16":
        return Tensor(dtype, (numbers.view(np.uint32) >> 16).astype(np.uint16))
    if dtype == "F8_E5M2":
        return Tensor(dtype, (numbers.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8))
    return Tensor(dtype, numbers.astype(STORAGE[dtype]))


def blur(numbers):
    """Numbers that no smaller format has."""
    noise = np.random.default_rng(len(numbers)).normal(1, 0.1, numbers.shape)
    return (numbers * noise).astype(np.float32)


def blur_experts(numbers):
    """The same with blocks of zeros, of tiny numbers and of one large number among them."""
    numbers = blur(numbers)
    numbers[0, 0, :32], numbers[0, 1, :32], numbers[0, 2, 5] = 0, numbers[0, 1, :32] * 1e-4, 1e3
    return numbers


def expert_tensors(layout, matrix, numbers, bias):
    """One of the two matrices of all experts, [experts, out, in], under a layout's names."""
    if layout in WHOLE:
        weight = encode(numbers.swapaxes(1, 2), WHOLE[layout])
        return {f"{matrix}_proj": weight, f"{matrix}_proj_bias": bias}
    tensors = {}
    for part, whole in [("weight", encode(numbers, "BF16")), ("bias", bias)]:
        for expert, data in enumerate(whole.data):
            if layout == "split":
                tensors[f"{matrix}_projs.{expert}.{part}"] = Tensor(whole.dtype, data)
            elif matrix == "down":
                tensors[f"{expert}.down_proj.{part}"] = Tensor(whole.dtype, data)
            else:
                tensors[f"{expert}.gate_proj.{part}"] = Tensor(whole.dtype, data[0::2])
                tensors[f"{expert}.up_proj.{part}"] = Tensor(whole.dtype, data[1::2])
    return tensors


def in_layout(fixture, layout, edit=lambda numbers: numbers):
    """Config and tensors of a fixture in another layout, with edited numbers of experts."""
    config = json.loads((FIXTURES / fixture / "config.json").read_text())
    stored = read(FIXTURES / fixture / "model.safetensors")
    del config["quantization_config"]
    tensors = {}
    for name, tensor in stored.items():
        prefix, experts, rest = name.partition("experts.")
        matrix, _, part = rest.partition("_proj_")
        if not experts:
            router = ".router.linear." if layout == "split" else ".router."
            tensors[name.replace(".router.", router)] = tensor
        elif part == "blocks":
            of = {part: stored[f"{prefix}experts.{matrix}_proj_{part}"] for part in ("scales", "bias")}
            numbers = edit(dequantize(tensor.data, of["scales"].data))
            for key, value in expert_tensors(layout, matrix, numbers, of["bias"]).items():
                tensors[f"{prefix}experts.{key}"] = value
    return config, tensors


def without_bf16(tensors, dtype):
    """Blurred numbers of another dtype in place of all in BF16."""
    exact = {name: (tensor.data.astype(np.uint32) << 16).view(np.float32) for name, tensor in tensors.items()}
    return {name: encode(blur(numbers), dtype) for name, numbers in exact.items()}


def prune(tensors):
    """Layer 1 with five experts, in layouts with one tensor for all of them."""
    of_experts = re.compile(r"layers\.1\.mlp\.(experts|router)\.")
    return {n: t._replace(data=t.data[:5]) if of_experts.search(n) else t for n, t in tensors.items()}


def narrow(tensors):
    """120 of the 128 numbers inside each expert, so that rows fill no blocks of 32."""
    cut = {"gate_up_proj": np.s_[..., :240], "gate_up_proj_bias": np.s_[:, :240], "down_proj": np.s_[:, :120]}
    return {n: t._replace(data=t.data[cut.get(n.rpartition(".")[2], ...)]) for n, t in tensors.items()}


def write_variants(folder):
    """What configs and tensors may leave out, add or say otherwise."""
    config = json.loads((FIXTURES / "tiny-hf/config.json").read_text())
    tensors = read(FIXTURES / "tiny-hf/model.safetensors")
    write_shards(folder / "shards", config, tensors)
    write_checkpoint(folder / "bare-names", config, {n.removeprefix("model."): t for n, t in tensors.items()})
    kept = {n: t for n, t in tensors.items() if n != "lm_head.weight" and not re.search("self_attn.*bias", n)}
    write_checkpoint(folder / "tied", {**config, "tie_word_embeddings": True, "attention_bias": False}, kept)
    write_checkpoint(folder / "pruned", config, prune(tensors))
    unknown = {"extra.weight": tensors["model.norm.weight"]}
    write_checkpoint(folder / "unknown", {**config, "extra_key": 1}, tensors | unknown)
    rope = config.pop("rope_scaling") | {"rope_theta": config.pop("rope_theta")}
    version5 = {**config, "rope_parameters": rope, "dtype": config.pop("torch_dtype")}
    write_checkpoint(folder / "transformers-5", version5, tensors)
    config, tensors = in_layout("tiny-hf", "bf16")
    write_checkpoint(folder / "pruned-bf16", config, prune(tensors))
    write_checkpoint(folder / "narrow", {**config, "intermediate_size": 120}, narrow(tensors))
    unrotated = {**config, "rope_scaling": {"rope_type": "default"}, "swiglu_limit": 0.75}
    write_checkpoint(folder / "unscaled", unrotated, tensors)


def write_text(folder):
    """Checkpoints with a tokenizer; of `text-above` it is in the folder above the weights."""
    for name, fixture, inner in [
        ("text", "tiny-hf", ""),
        ("text-128", "tiny-128", ""),
        ("text-above", "tiny", "original"),
    ]:
        shutil.copytree(FIXTURES / fixture, folder / name / inner)
        for file, content in [
            ("tokenizer.json", {"version": "1.0"}),
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
            ("generation_config.json", {"bos_token_id": 6, "eos_token_id": [7, 8], "pad_token_id": 9}),
        ]:
            (folder / name / file).write_text(json.dumps(content))
    (folder / "text/chat_template.jinja").write_text("{{ messages[0].content }}")


def write_all(folder):
    """Every checkpoint that is small, as a folder under its name."""
    for fixture in ["tiny", "tiny-hf", "tiny-128", "tiny-1-kv", "tiny-3-heads"]:
        shutil.copytree(FIXTURES / fixture, folder / fixture)
    for fixture in ["tiny-hf", "tiny-128"]:
        for layout in LAYOUTS:
            write_checkpoint(folder / f"{fixture}-{layout}", *in_layout(fixture, layout))
    for layout in ["bf16", "f32", "split"]:
        write_checkpoint(folder / f"blurred-{layout}", *in_layout("tiny-hf", layout, blur_experts))
    for dtype in ["f16", "f32"]:
        config, tensors = in_layout("tiny-hf", "bf16")
        write_checkpoint(folder / f"dense-{dtype}", config, without_bf16(tensors, dtype.upper()))
    write_variants(folder)
    write_text(folder)


def write_sparse(folder, layers, experts):
    """A checkpoint with the sizes of a released model, over holes."""
    config = {
        "num_hidden_layers": layers, "num_experts": experts, "experts_per_token": 4, "vocab_size": 201088,
        "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
        "initial_context_length": 4096, "rope_theta": 150000, "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1, "rope_ntk_beta": 32,
    }  # fmt: skip
    block = {
        "attn.norm.scale": [2880], "attn.qkv.weight": [5120, 2880], "attn.qkv.bias": [5120],
        "attn.sinks": [64], "attn.out.weight": [2880, 4096], "attn.out.bias": [2880],
        "mlp.norm.scale": [2880], "mlp.gate.weight": [experts, 2880], "mlp.gate.bias": [experts],
        "mlp.mlp1_weight.blocks": [experts, 5760, 90, 16], "mlp.mlp1_weight.scales": [experts, 5760, 90],
        "mlp.mlp1_bias": [experts, 5760], "mlp.mlp2_weight.blocks": [experts, 2880, 90, 16],
        "mlp.mlp2_weight.scales": [experts, 2880, 90], "mlp.mlp2_bias": [experts, 2880],
    }  # fmt: skip
    shapes = {"embedding.weight": [201088, 2880], "norm.scale": [2880], "unembedding.weight": [201088, 2880]}
    shapes |= {f"block.{n}.{name}": shape for n in range(layers) for name, shape in block.items()}
    entries = []
    for name, shape in shapes.items():
        dtype, size = ("U8", 1) if name.endswith(("blocks", "scales")) else ("BF16", 2)
        entries.append((name, dtype, shape, int(np.prod(shape)) * size))
    header, length = encode_header(entries)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header)
        file.truncate(len(header) + length)
