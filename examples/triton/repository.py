"""Writes a model repository for Triton over the stages of a model.

    python repository.py REPOSITORY STAGE.onnx... [--gpus 0,1] [--sequences 8]

Each stage becomes a model, whose version folder is a link to the folder of the stage's files, and
`gpt-oss` an ensemble of all. Caches are implicit state, which Triton keeps for each sequence."""

import argparse
from pathlib import Path

import onnx

TYPES = {
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
}
PAST, PRESENT = "past_key_values.", "present."


class Value:
    """An input or output: its name, Triton's type, and its sizes but for the batch, -1 if they vary."""

    def __init__(self, value):
        tensor = value.type.tensor_type
        self.name, self.type = value.name, TYPES[tensor.elem_type]
        self.batch, *self.dims = [dim.dim_value or -1 for dim in tensor.shape.dim]

    def tensor(self):
        return f'{{ name: "{self.name}" data_type: {self.type} dims: {self.dims} }}'

    def state(self):
        """A cache. Triton begins with size 1 where sizes vary: a position of zeros, which the mask of a
        sequence hides."""
        first = [1 if size == -1 else size for size in self.dims]
        return (
            f'{{ input_name: "{self.name}" output_name: "{self.name.replace(PAST, PRESENT)}" '
            f"data_type: {self.type} dims: {self.dims} initial_state {{ "
            f'name: "empty" data_type: {self.type} dims: {first} zero_data: true }} }}'
        )


class Stage:
    """A stage's file, and its inputs and outputs."""

    def __init__(self, path):
        graph = onnx.load(path, load_external_data=False).graph
        self.path = path
        self.inputs, self.outputs = [[Value(it) for it in values] for values in (graph.input, graph.output)]
        self.caches = [value for value in self.inputs if value.name.startswith(PAST)]
        if not self.caches or any(value.batch != -1 for value in self.inputs):
            raise SystemExit(f"`{path}` has no caches or a fixed batch: export it with caches and without sizes.")

    def config(self, name, device, sequences):
        return f"""name: "{name}"
platform: "onnxruntime_onnx"
default_model_filename: "{self.path.name}"
max_batch_size: 1
input {listed(it.tensor() for it in self.inputs if not it.name.startswith(PAST))}
output {listed(it.tensor() for it in self.outputs if not it.name.startswith(PRESENT))}
sequence_batching {{
  max_sequence_idle_microseconds: 60000000
  oldest {{ max_candidate_sequences: {sequences} }}
  state {listed(it.state() for it in self.caches)}
}}
instance_group [ {{ count: 1 {device} }} ]
"""


def listed(lines):
    return "[\n    " + ",\n    ".join(lines) + "\n  ]"


def ensemble(stages):
    """A step of a sequence through all stages."""

    def step(number, stage):
        def mapped(kind, values, cache):
            names = [value.name for value in values if not value.name.startswith(cache)]
            return " ".join(f'{kind}_map {{ key: "{name}" value: "{name}" }}' for name in names)

        maps = f'{mapped("input", stage.inputs, PAST)} {mapped("output", stage.outputs, PRESENT)}'
        return f'{{ model_name: "stage-{number}" model_version: -1 {maps} }}'

    return f"""name: "gpt-oss"
platform: "ensemble"
max_batch_size: 1
input {listed(it.tensor() for it in stages[0].inputs if not it.name.startswith(PAST))}
output {listed(it.tensor() for it in stages[-1].outputs if not it.name.startswith(PRESENT))}
ensemble_scheduling {{
  step {listed(step(number, stage) for number, stage in enumerate(stages, 1))}
}}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("stages", type=Path, nargs="+")
    parser.add_argument("--gpus", help="one GPU for each stage; on the CPU without it")
    parser.add_argument("--sequences", type=int, default=8, help="whose caches a stage holds at once")
    request = parser.parse_args()
    gpus = request.gpus.split(",") if request.gpus else []
    if gpus and len(gpus) != len(request.stages):
        parser.error(f"{len(request.stages)} stages need as many GPUs, not {len(gpus)}")
    devices = [f"kind: KIND_GPU gpus: [ {gpu} ]" for gpu in gpus] or ["kind: KIND_CPU"] * len(request.stages)
    stages = [Stage(path.resolve()) for path in request.stages]
    for number, (stage, device) in enumerate(zip(stages, devices), 1):
        folder = request.repository / f"stage-{number}"
        folder.mkdir(parents=True)
        (folder / "1").symlink_to(stage.path.parent, target_is_directory=True)
        (folder / "config.pbtxt").write_text(stage.config(folder.name, device, request.sequences))
    # An ensemble has a version too, without files.
    (request.repository / "gpt-oss" / "1").mkdir(parents=True)
    (request.repository / "gpt-oss" / "config.pbtxt").write_text(ensemble(stages))


main()
