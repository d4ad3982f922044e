"""Writes a random GPT-OSS checkpoint in Hugging Face's layout, the same in every run. Dense
weights are Gaussian. Experts are quantized Gaussian blocks, chosen from 65,536, so that codes
and scales are distributed as in a quantized model."""

import json
import math
import struct
from functools import cache
from pathlib import Path

import numpy as np

BLOCK, LIBRARY = 32, 65_536
TINY = Path(__file__).resolve().parents[2] / "tests/fixtures/tiny-hf/config.json"
# Of the 20B, but with 2 of its 24 layers and a smaller vocabulary.
DIMENSIONS = dict(
    num_hidden_layers=2, vocab_size=32_768, hidden_size=2880, intermediate_size=2880,
    num_local_experts=32, num_attention_heads=64, num_key_value_heads=8, head_dim=64,
    sliding_window=128
)
FULL_SIZE = DIMENSIONS | dict(num_hidden_layers=24, vocab_size=201_088)
KINDS = ("sliding_attention", "full_attention")
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
# Other exporters copy a tokenizer; nothing uses it.
VOCABULARY = {"<s>": 0, "</s>": 1, "<pad>": 2}
WORD_LEVEL = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<pad>"}
TOKENIZER = {"version": "1.0", "added_tokens": [], "model": WORD_LEVEL}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast"}


def write(folder: Path, dimensions):
    """Writes a checkpoint and returns its config: of the fixture `tiny-hf`, with other
    dimensions."""
    config = json.loads(TINY.read_text()) | SPECIAL | dimensions
    config["layer_types"] = [KINDS[layer % 2] for layer in range(config["num_hidden_layers"])]
    folder.mkdir()
    files = {"config": config, "tokenizer": TOKENIZER, "tokenizer_config": TOKENIZER_CONFIG}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    write_safetensors(folder / "model.safetensors", list(tensors(config)))
    return config


def write_safetensors(path, items):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, _ in items:
        start, end = end, end + math.prod(shape) * (2 if dtype == "BF16" else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, shape, make in items:
            make().reshape(shape).tofile(file)


def tensors(config):
    """Name, dtype, shape and a function that makes the data, in the order of the file."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    experts, vocabulary = config["num_local_experts"], config["vocab_size"]
    heads, head_dim = config["num_attention_heads"], config["head_dim"]
    kv_width = config["num_key_value_heads"] * head_dim
    yield dense("model.embed_tokens.weight", (vocabulary, hidden), 1.0)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield dense(prefix + "input_layernorm.weight", (hidden,), 0.1, mean=1.0)
        yield from linear(prefix + "self_attn.q_proj", heads * head_dim, hidden)
        yield from linear(prefix + "self_attn.k_proj", kv_width, hidden)
        yield from linear(prefix + "self_attn.v_proj", kv_width, hidden)
        yield dense(prefix + "self_attn.sinks", (heads,), 1.0)
        yield from linear(prefix + "self_attn.o_proj", hidden, heads * head_dim)
        yield dense(prefix + "post_attention_layernorm.weight", (hidden,), 0.1, mean=1.0)
        yield from linear(prefix + "mlp.router", experts, hidden)
        yield from expert_matrix(prefix + "mlp.experts.gate_up_proj", experts, 2 * inner, hidden)
        yield from expert_matrix(prefix + "mlp.experts.down_proj", experts, hidden, inner)
    yield dense("model.norm.weight", (hidden,), 0.1, mean=1.0)
    yield dense("lm_head.weight", (vocabulary, hidden), hidden**-0.5)


def linear(name, rows, columns):
    yield dense(name + ".weight", (rows, columns), columns**-0.5)
    yield dense(name + ".bias", (rows,), 0.1)


def dense(name, shape, deviation, mean=0.0):
    def bf16():
        numbers = generator(name).standard_normal(shape, np.float32)
        bits = (numbers * np.float32(deviation) + np.float32(mean)).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # ties to even

    return name, "BF16", shape, bf16


def expert_matrix(name, experts, rows, columns):
    """MXFP4 blocks of 16 bytes for 32 inputs of a row, scales (exponents plus 127), biases."""
    shape = (rows, columns // BLOCK)
    mean_scale = 127 + round(math.log2(columns**-0.5))

    def choices(part):
        chosen = (generator(f"{name}.{at}").integers(0, LIBRARY, shape) for at in range(experts))
        return np.stack([library()[part][blocks] for blocks in chosen])

    def scales():
        return (choices(1) + mean_scale).astype(np.uint8)

    yield name + "_blocks", "U8", (experts, *shape, BLOCK // 2), lambda: choices(0)
    yield name + "_scales", "U8", (experts, *shape), scales
    yield dense(name + "_bias", (experts, rows), 0.05)


@cache
def library():
    """Gaussian blocks in MXFP4: codes `[LIBRARY, 16]`, two in a byte, and exponents
    `[LIBRARY]`, set by the largest number of a block as in the OCP MX specification."""
    numbers = generator("blocks").standard_normal((LIBRARY, BLOCK), np.float32)
    exponents = np.floor(np.log2(np.abs(numbers).max(1))).astype(np.int16) - 2
    scaled = numbers / np.exp2(exponents.astype(np.float32))[:, None]
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    codes = np.searchsorted((e2m1[1:] + e2m1[:-1]) / 2, np.abs(scaled)).astype(np.uint8)
    codes |= (scaled < 0) * np.uint8(8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, exponents


def generator(name):
    return np.random.default_rng([0, *name.encode()])
