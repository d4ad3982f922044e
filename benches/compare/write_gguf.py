"""Writes a checkpoint of checkpoint.py as GGUF, with the same numbers in the formats of llama.cpp:
experts in MXFP4, other matrices in BF16 or, but for the embedding, in Q8_0, which rounds. Arguments:
the checkpoint's folder, the file to write, and bf16 or q8_0. Needs the package gguf."""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, RopeScalingType, quants

F32, BF16, Q8_0, MXFP4 = Type.F32, Type.BF16, Type.Q8_0, Type.MXFP4
LAYER_VECTORS = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.bias": "attn_output.bias",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias",
}
LAYER_MATRICES = {f"self_attn.{part}_proj.weight": f"attn_{part}.weight" for part in "qkv"}
LAYER_MATRICES["self_attn.o_proj.weight"] = "attn_output.weight"
# Which rows of which matrix of the checkpoint: gate and up alternate.
EXPERTS = {
    "ffn_gate_exps": ("gate_up_proj", slice(0, None, 2)),
    "ffn_up_exps": ("gate_up_proj", slice(1, None, 2)),
    "ffn_down_exps": ("down_proj", slice(None)),
}


def safetensors(path):
    """The tensors of a file, mapped: bytes, or BF16 as uint16."""
    data = np.memmap(path, np.uint8, "r")
    begin = 8 + int(data[:8].view(np.uint64)[0])
    header = json.loads(bytes(data[8:begin]))
    header.pop("__metadata__", None)
    types = {"U8": np.uint8, "BF16": np.uint16}
    return {
        name: data[begin + it["data_offsets"][0] : begin + it["data_offsets"][1]]
        .view(types[it["dtype"]])
        .reshape(it["shape"])
        for name, it in header.items()
    }


def f32(bf16):
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def blocks(codes, scales):
    """MXFP4 of llama.cpp: a block is its scale, then bytes with the codes of the inputs j and
    j + 16. In a checkpoint a byte has the codes of the inputs 2j and 2j + 1."""
    inputs = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], 32)
    bytes_of_codes = inputs[..., :16] | inputs[..., 16:] << 4
    whole = np.concatenate([scales[..., None], bytes_of_codes], -1)
    return whole.reshape(*codes.shape[:2], -1)


def tensors(found, layers, dense):
    """Name, type, shape in bytes or, of vectors, in numbers, and a function that makes the data."""

    def vector(name, bf16):
        return name, F32, bf16.shape, lambda: f32(bf16)

    def matrix(name, bf16, kind=dense):
        rows, columns = bf16.shape
        if kind == BF16:
            return name, kind, (rows, columns * 2), lambda: bf16.view(np.uint8)
        shape = (rows, columns // 32 * 34)
        return name, kind, shape, lambda: quants.quantize(f32(bf16), kind)

    def experts(name, codes, scales):
        count, rows, blocks_of_row, _ = codes.shape
        return name, MXFP4, (count, rows, blocks_of_row * 17), lambda: blocks(codes, scales)

    yield matrix("token_embd.weight", found["model.embed_tokens.weight"], BF16)
    yield vector("output_norm.weight", found["model.norm.weight"])
    yield matrix("output.weight", found["lm_head.weight"])
    for layer in range(layers):
        source, target = f"model.layers.{layer}.", f"blk.{layer}."
        for name, new in LAYER_VECTORS.items():
            yield vector(target + new, found[source + name])
        for name, new in LAYER_MATRICES.items():
            yield matrix(target + new, found[source + name])
        for new, (name, rows) in EXPERTS.items():
            name = f"{source}mlp.experts.{name}"
            codes, scales, bias = (found[name + it] for it in ("_blocks", "_scales", "_bias"))
            yield experts(f"{target}{new}.weight", codes[:, rows], scales[:, rows])
            yield vector(f"{target}{new}.bias", bias[:, rows])


def describe(writer, config):
    rope = config.get("rope_scaling") or config["rope_parameters"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    # A tokenizer that nothing uses.
    vocabulary = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list([f"t{token}" for token in range(vocabulary)])
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def main():
    folder, path, dense = sys.argv[1:]
    config = json.loads(Path(folder, "config.json").read_text())
    writer = GGUFWriter(path, "gpt-oss")
    describe(writer, config)
    found = safetensors(Path(folder, "model.safetensors"))
    items = list(tensors(found, config["num_hidden_layers"], Type[dense.upper()]))
    for name, kind, shape, _ in items:
        dtype, size = (np.float32, 4) if kind == F32 else (np.uint8, 1)
        raw = None if kind == F32 else kind
        writer.add_tensor_info(name, shape, np.dtype(dtype), int(np.prod(shape)) * size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, _, make in items:
        writer.write_tensor_data(np.ascontiguousarray(make()))
    writer.close()


main()
