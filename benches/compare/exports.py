"""The exports that are compared."""

from typing import NamedTuple


class Export(NamedTuple):
    name: str
    arguments: str
    in_place: bool = False  # refers to the checkpoint's file instead of writing weights
    runs: bool = True  # is measured in its runtime, too
    model: str = "model.onnx"  # in its own folder


def ours(options, **others):
    name = f"`{options}`" + (", in place" if others.get("in_place") else "")
    arguments = f"--checkpoint {{checkpoint}} --output {{model}} {options} --quiet"
    return Export(name, arguments, **others)


# The first one is the reference for all logits; `verify` compares it with the checkpoint.
# Speeds are relative to the first one with a cache, times to the first copy.
OURS = [
    ours("--target onnx", in_place=True),
    ours("--target onnx --kv-cache", in_place=True),
    ours("--target ort", in_place=True),
    ours("--target ort", runs=False),
    ours("--target ort --dense int8"),
    ours("--target ort --experts int8"),
    ours("--target ort --experts int8 --dense int8"),
    ours("--target ort --experts int4"),
    ours("--target ort --experts int4 --dense int8"),
    ours("--target ort --experts int4 --dense int4"),
    ours("--target ort --experts int4 --dense int8 --keep-activations"),
    ours("--target ort --experts bf16"),
    ours("--target ort --experts f16", runs=False),
    ours("--target ort --experts f32", runs=False),
]
# Arguments of a Python. By default genai's model has a windowed cache, which accepts no empty
# past, so onnxruntime alone cannot run it.
GENAI = (
    "-m onnxruntime_genai.models.builder -i {checkpoint} -o {folder} -c {cache} -e cpu "
    "--extra_options windowed_kv_cache=false"
)
MOBIUS = "-m mobius build --config {checkpoint} {folder} --ep cpu --dtype"
TORCH = "{here}/torch_export.py {checkpoint} {model}"
RIVALS = [
    Export("onnxruntime-genai, int4", f"{GENAI} -p int4"),
    Export("onnxruntime-genai, int8", f"{GENAI} moe_quant_type=int8 -p int8"),
    Export("onnxruntime-genai, fp32", f"{GENAI} -p fp32"),
    Export("mobius-onnx, f32", f"{MOBIUS} f32"),
    Export("mobius-onnx, bf16", f"{MOBIUS} bf16"),
    Export("torch, fp32, without a cache", TORCH),
]
GGUF = "{here}/write_gguf.py {checkpoint} {model}"
# The same numbers in llama.cpp; its activations are rounded beside MXFP4, BF16 and Q8_0.
LLAMA = [
    Export("llama.cpp, BF16", f"{GGUF} bf16", model="model.gguf"),
    Export("llama.cpp, Q8_0", f"{GGUF} q8_0", model="model.gguf"),
]
