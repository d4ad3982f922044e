"""A random GPT-OSS checkpoint in Hugging Face's layout, written tensor by tensor.

Dense weights are Gaussian with a variance of one over the inputs; experts are such
numbers in MXFP4: every block is one of 65,536 quantised Gaussian blocks, so codes and
scales have the frequencies that they have in a quantised model. Every run gives the
same numbers.
"""

import json
import math
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
BLOCK = 32
LIBRARY = 65_536
SEED = 0
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {
        "type": "WordLevel",
        "vocab": {"<begin>": 0, "<end>": 1, "<pad>": 2},
        "unk_token": "<pad>",
    },
}


@dataclass(frozen=True)
class Sizes:
    """What a GPT-OSS model's config says of its shape; the defaults are the 20B's."""

    layers: int = 24
    vocabulary: int = 201_088
    hidden: int = 2880
    inner: int = 2880
    experts: int = 32
    experts_per_token: int = 4
    heads: int = 64
    kv_heads: int = 8
    head_dim: int = 64
    window: int = 128


def write(folder: Path, sizes: Sizes):
    """Writes model.safetensors, config.json, and the least of a tokenizer: exporters
    copy one and use it for nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "config.json": hugging_face_config(sizes),
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    write_safetensors(folder / "model.safetensors", list(tensors(sizes)))


def tensors(sizes):
    """All tensors of a model, in the file's order: name, dtype and shape, and what makes
    the bytes when their turn comes."""
    hidden, width = sizes.hidden, sizes.heads * sizes.head_dim
    kv_width = sizes.kv_heads * sizes.head_dim
    yield dense("model.embed_tokens.weight", (sizes.vocabulary, hidden), 1.0)
    for layer in range(sizes.layers):
        at = f"model.layers.{layer}."
        yield dense(at + "input_layernorm.weight", (hidden,), 0.1, mean=1.0)
        for name, rows in (("q", width), ("k", kv_width), ("v", kv_width)):
            yield from linear(at + f"self_attn.{name}_proj", rows, hidden)
        yield dense(at + "self_attn.sinks", (sizes.heads,), 1.0)
        yield from linear(at + "self_attn.o_proj", hidden, width)
        yield dense(at + "post_attention_layernorm.weight", (hidden,), 0.1, mean=1.0)
        yield from linear(at + "mlp.router", sizes.experts, hidden)
        for name, rows, columns in (
            ("gate_up_proj", 2 * sizes.inner, hidden),
            ("down_proj", hidden, sizes.inner),
        ):
            name = at + f"mlp.experts.{name}"
            yield from expert_matrix(name, sizes.experts, rows, columns)
            yield dense(name + "_bias", (sizes.experts, rows), 0.05)
    yield dense("model.norm.weight", (hidden,), 0.1, mean=1.0)
    yield dense("lm_head.weight", (sizes.vocabulary, hidden), hidden**-0.5)


def linear(name, rows, columns):
    yield dense(name + ".weight", (rows, columns), columns**-0.5)
    yield dense(name + ".bias", (rows,), 0.1)


def dense(name, shape, deviation, mean=0.0):
    """Gaussian numbers in BF16."""

    def make():
        numbers = generator(name).standard_normal(shape, np.float32)
        return bf16(numbers * np.float32(deviation) + np.float32(mean))

    return name, "BF16", shape, make


def expert_matrix(name, experts, rows, columns):
    """One matrix of all experts in MXFP4: `_blocks`, 16 bytes for 32 inputs of a row, and
    `_scales`, a byte each, the exponent of two plus 127."""
    shape = (experts, rows, columns // BLOCK)
    scale = 127 + round(math.log2(columns**-0.5))

    def choose(expert):
        return generator(f"{name}.{expert}").integers(0, LIBRARY, shape[1:])

    def blocks():
        return np.stack([library()[0][choose(expert)] for expert in range(experts)])

    def scales():
        exponents = [library()[1][choose(expert)] for expert in range(experts)]
        return (np.stack(exponents) + scale).astype(np.uint8)

    yield name + "_blocks", "U8", (*shape, BLOCK // 2), blocks
    yield name + "_scales", "U8", shape, scales


@cache
def library():
    """Gaussian blocks in MXFP4: codes `[LIBRARY, 16]`, two a byte, the first one low, and
    exponents `[LIBRARY]` for a deviation of one. The largest number of a block sets its
    exponent, as in the specification of the microscaling formats."""
    numbers = generator("blocks").standard_normal((LIBRARY, BLOCK), np.float32)
    exponents = np.floor(np.log2(np.abs(numbers).max(1))).astype(np.int16) - 2
    scaled = numbers / np.exp2(exponents.astype(np.float32))[:, None]
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    codes = np.searchsorted(middles, np.abs(scaled)).astype(np.uint8) | (scaled < 0) * np.uint8(8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, exponents


def generator(name):
    """A stream of random numbers for each name, the same in every run."""
    return np.random.default_rng([SEED, *name.encode()])


def bf16(numbers):
    """The nearest BF16 numbers, ties to even, as their 16 bits."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


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
            numbers = make()
            assert numbers.shape == tuple(shape)
            numbers.tofile(file)


def hugging_face_config(sizes):
    kinds = ("sliding_attention", "full_attention")
    kept = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": sizes.inner,
        "layer_types": [kinds[layer % 2] for layer in range(sizes.layers)],
        "max_position_embeddings": 131_072,
        "num_attention_heads": sizes.heads,
        "num_experts_per_tok": sizes.experts_per_token,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "num_local_experts": sizes.experts,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": kept},
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150_000.0,
        "sliding_window": sizes.window,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": sizes.vocabulary,
    }
