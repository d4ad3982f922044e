"""Reads a repository of `examples/triton` by Triton's own schema, and does in onnxruntime what Triton
would do with it.

Reads {"repository", "prompt", "tokens"} from standard input, and prints the configs, the graphs' inputs
and outputs by model, and the new tokens."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

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

    def values(self):
        kinds = {"input": self.session.get_inputs(), "output": self.session.get_outputs()}
        return {kind: {it.name: [it.type, it.shape] for it in values} for kind, values in kinds.items()}

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
print(
    json.dumps(
        {
            "configs": {
                name: json_format.MessageToDict(model.config, preserving_proto_field_name=True)
                for name, model in models.items()
            },
            "graphs": {name: model.values() for name, model in models.items() if not model.steps},
            "tokens": continued(models, request["prompt"], request["tokens"]),
        }
    )
)
