"""The logits of checkpoints by the definition of the model, in float64.

Reads a list of {"checkpoint", "ids", "logits"} from standard input: a folder in Hugging Face's
layout with MXFP4 experts, an .npy file of token ids, and where to write the logits of all tokens.
Layers have the experts and windows of `block_configs`, or else of `layer_types`."""

import json
import sys
from pathlib import Path

import numpy as np

# A code of MXFP4 has a sign, two bits of exponent and one of mantissa.
CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def tensors(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, it in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, end = it["data_offsets"]
        raw = data[start + first : start + end]
        if it["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(float)
        else:
            values = np.frombuffer(raw, {"U8": "u1", "F32": "<f4"}[it["dtype"]])
        found[name] = values.reshape(it["shape"])
    return found


def dequantized(blocks, scales):
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*scales.shape, 32)
    values = CODES[codes] * 2.0 ** (scales[..., None].astype(int) - 127)
    return values.reshape(*scales.shape[:2], -1)


def layers(config):
    """The window of each layer."""
    if "block_configs" in config:
        return [block.get("sliding_window") for block in config["block_configs"]]
    window = {"sliding_attention": config["sliding_window"], "full_attention": None}
    return [window[kind] for kind in config["layer_types"]]


def norm(x, scale, config):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * scale


def rotations(length, config):
    """Cosines and sines [tokens, head_dim / 2], by YaRN without rounding its bounds."""
    half, yarn = config["head_dim"] // 2, config["rope_scaling"]
    theta, factor = config["rope_theta"], yarn["factor"]
    at = np.arange(half)
    context = yarn["original_max_position_embeddings"]
    low, high = (
        half * np.log(context / (turns * 2 * np.pi)) / np.log(theta)
        for turns in (yarn["beta_fast"], yarn["beta_slow"])
    )
    stretched = np.clip((at - low) / (high - low), 0, 1)
    frequency = theta ** (-at / half) * (stretched / factor + 1 - stretched)
    angles = np.arange(length)[:, None] * frequency
    concentration = 0.1 * np.log(factor) + 1
    return concentration * np.cos(angles), concentration * np.sin(angles)


def rotated(x, cos, sin):
    one, two = np.split(x, 2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


def attention(x, weights, window, config):
    """Of one row `[tokens, hidden]`."""
    length, width = len(x), config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    q = linear("q_proj", x).reshape(length, heads, width)
    k, v = (linear(f"{it}_proj", x).reshape(length, kv_heads, width) for it in "kv")
    cos, sin = rotations(length, config)
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    distance = np.arange(length)[:, None] - np.arange(length)
    seen = (distance >= 0) & (distance < (window or length))
    out = np.empty((length, heads, width))
    for head in range(heads):
        kv = head // (heads // kv_heads)
        scores = np.where(seen, q[:, head] @ k[:, kv].T / np.sqrt(width), -np.inf)
        sink = weights["sinks"][head]
        most = np.maximum(scores.max(-1, keepdims=True), sink)
        shares = np.exp(scores - most)
        shares /= shares.sum(-1, keepdims=True) + np.exp(sink - most)
        out[:, head] = shares @ v[:, kv]
    return linear("o_proj", out.reshape(length, -1))


def experts(x, weights, config):
    scores = x @ weights["router.weight"].T + weights["router.bias"]
    limit, out = config["swiglu_limit"], np.zeros_like(x)
    gate_up, down = (
        dequantized(*(weights[f"experts.{name}_proj_{it}"] for it in ("blocks", "scales")))
        for name in ("gate_up", "down")
    )
    for token, row in enumerate(x):
        chosen = np.argsort(-scores[token])[: config["num_experts_per_tok"]]
        shares = np.exp(scores[token, chosen] - scores[token, chosen].max())
        for expert, share in zip(chosen, shares / shares.sum()):
            inner = gate_up[expert] @ row + weights["experts.gate_up_proj_bias"][expert]
            gate, up = np.minimum(inner[::2], limit), np.clip(inner[1::2], -limit, limit)
            inner = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
            out[token] += share * (down[expert] @ inner + weights["experts.down_proj_bias"][expert])
    return out


def logits(folder, ids):
    config = json.loads((folder / "config.json").read_text())
    all_tensors = tensors(folder / "model.safetensors")

    def below(prefix):
        return {k[len(prefix) :]: v for k, v in all_tensors.items() if k.startswith(prefix)}

    rows = []
    for row in ids:
        x = all_tensors["model.embed_tokens.weight"][row]
        for at, window in enumerate(layers(config)):
            weights = below(f"model.layers.{at}.")
            normed = norm(x, weights["input_layernorm.weight"], config)
            x = x + attention(normed, below(f"model.layers.{at}.self_attn."), window, config)
            normed = norm(x, weights["post_attention_layernorm.weight"], config)
            x = x + experts(normed, below(f"model.layers.{at}.mlp."), config)
        x = norm(x, all_tensors["model.norm.weight"], config)
        rows.append(x @ all_tensors["lm_head.weight"].T)
    return np.stack(rows)


for case in json.load(sys.stdin):
    found = logits(Path(case["checkpoint"]), np.load(case["ids"]))
    np.save(case["logits"], found.astype(np.float32))
print(json.dumps(None))
