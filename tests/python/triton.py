"""Reads a repository of `examples/triton` by Triton's own schema, and does in onnxruntime what Triton
would do with it.

Reads {"repository", "prompt", "tokens"} from standard input. Prints for each stage its config, and its
inputs and outputs as the config has them and as the graph has them; and the new tokens."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16"}
DTYPES = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


class Model:
    """A model of the repository, with the state of one sequence."""

    def __init__(self, folder):
        self.config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
        self.steps = self.config.ensemble_scheduling.step
        if not self.steps:
            path = folder / "1" / self.config.default_model_filename
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            self.state = {
                state.input_name: np.zeros((1, *state.initial_state[0].dims), DTYPES[DataType.Name(state.data_type)])
                for state in self.config.sequence_batching.state
            }

    def described(self):
        """Dtype and sizes of inputs and outputs by name; sizes that vary are -1."""
        config, state = self.config, self.config.sequence_batching.state
        names = [(it.name, it) for it in [*config.input, *config.output]]
        names += [(it.input_name, it) for it in state] + [(it.output_name, it) for it in state]
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        sizes = {it.name: [size if isinstance(size, int) else -1 for size in it.shape] for it in values}
        return {
            "config": json_format.MessageToDict(config, preserving_proto_field_name=True),
            "configured": {name: [DataType.Name(it.data_type), [-1, *it.dims]] for name, it in names},
            "graph": {it.name: [TYPES[it.type], sizes[it.name]] for it in values},
        }

    def infer(self, inputs):
        given = {value.name: inputs[value.name] for value in self.config.input}
        outputs = [value.name for value in self.session.get_outputs()]
        found = dict(zip(outputs, self.session.run(None, {**given, **self.state})))
        for state in self.config.sequence_batching.state:
            self.state[state.input_name] = found[state.output_name]
        return {value.name: found[value.name] for value in self.config.output}


def step(models, tensors):
    for at in models["gpt-oss"].steps:
        found = models[at.model_name].infer({name: tensors[of] for name, of in at.input_map.items()})
        tensors.update((of, found[name]) for name, of in at.output_map.items())
    return [tensors[value.name] for value in models["gpt-oss"].config.output]


def continued(models, prompt, count):
    ids, tokens = [prompt], []
    # A sequence begins with a position of padding.
    mask = [0] + [1] * len(prompt)
    for _ in range(count):
        [logits] = step(models, {"input_ids": np.array(ids), "attention_mask": np.array([mask])})
        tokens.append(int(logits[0, -1].argmax()))
        ids, mask = [[tokens[-1]]], mask + [1]
    return tokens


request = json.load(sys.stdin)
models = {folder.name: Model(folder) for folder in Path(request["repository"]).iterdir()}
described = {name: model.described() for name, model in models.items() if not model.steps}
print(json.dumps({"stages": described, "tokens": continued(models, request["prompt"], request["tokens"])}))
