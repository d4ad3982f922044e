"""What is compared: our exports and the rivals', a line each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ours:
    """An export by gpt-oss-export."""

    arguments: str
    in_place: bool = False
    """It reads the checkpoint's own file; otherwise it has all weights beside it."""
    runs: bool = True
    """It is run in onnxruntime too; otherwise it is deleted at once."""

    @property
    def name(self):
        return f"`{self.arguments}`" + (", in place" if self.in_place else "")


# The first one is the reference for all logits: `verify` compares it with a float32
# forward pass over the checkpoint's own numbers. The first with a cache is what speeds
# are compared with.
OURS = [
    Ours("--target onnx", in_place=True),
    Ours("--target onnx --kv-cache", in_place=True),
    Ours("--target ort", in_place=True),
    Ours("--target ort", runs=False),
    Ours("--target ort --dense int8"),
    Ours("--target ort --experts int8"),
    Ours("--target ort --experts int8 --dense int8"),
    Ours("--target ort --experts int4"),
    Ours("--target ort --experts int4 --dense int8"),
    Ours("--target ort --experts int4 --dense int4"),
    Ours("--target ort --experts int4 --dense int8 --keep-activations"),
    Ours("--target ort --experts bf16"),
    Ours("--target ort --experts f16", runs=False),
    Ours("--target ort --experts f32", runs=False),
]


@dataclass(frozen=True)
class Rival:
    """Another exporter: the name of its package and what it is called with, after the
    Python that has it. `scratch` is a folder for what it wants to keep."""

    package: str
    variant: str
    arguments: str

    @property
    def name(self):
        return f"{self.package}, {self.variant}"


GENAI = "-m onnxruntime_genai.models.builder -i {checkpoint} -o {output} -c {scratch} -e cpu"
# Its default takes no empty past, so that onnxruntime alone cannot begin a text.
WHOLE_CACHE = "--extra_options windowed_kv_cache=false"
MOBIUS = "-m mobius build --config {checkpoint} {output} --ep cpu"
OPTIMUM = "-m optimum.exporters.onnx --model {checkpoint} --task text-generation-with-past"

RIVALS = [
    Rival("onnxruntime-genai", "int4", f"{GENAI} -p int4 {WHOLE_CACHE}"),
    Rival("onnxruntime-genai", "int8", f"{GENAI} -p int8 {WHOLE_CACHE} moe_quant_type=int8"),
    Rival("onnxruntime-genai", "fp32", f"{GENAI} -p fp32 {WHOLE_CACHE}"),
    Rival("mobius-onnx", "f32", f"{MOBIUS} --dtype f32"),
    Rival("mobius-onnx", "bf16", f"{MOBIUS} --dtype bf16"),
    Rival("optimum-onnx", "fp32", f"{OPTIMUM} --dtype fp32 {{output}}"),
    Rival("torch", "fp32, without a cache", "{here}/torch_export.py {checkpoint} {output}"),
]

# Whose versions are said, besides.
WITH_THEM = ["torch", "transformers", "onnxruntime", "onnx-ir"]
