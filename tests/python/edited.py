"""Edits models as other tools do, and prints for each model which edits give one that
onnxruntime loads."""

import json
import sys
from pathlib import Path

import onnx
import onnxruntime
from onnx import compose, utils
from onnxruntime.quantization import quantize_dynamic


def loads(path):
    try:
        onnxruntime.InferenceSession(path)
    except Exception as error:
        # A missing file would be a fault of this test.
        assert "invalid model" in str(error).lower(), error
        return False
    return True


def add_prefix(model, edited):
    onnx.save(compose.add_prefix(onnx.load(model, load_external_data=False), "a/"), edited)


def extract_model(model, edited):
    inputs = [value.name for value in onnx.load(model, load_external_data=False).graph.input]
    utils.extract_model(model, edited, inputs, ["logits"], check_model=False)


def optimized(level):
    def save(model, edited):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = edited
        onnxruntime.InferenceSession(model, options)

    return save


LEVELS = onnxruntime.GraphOptimizationLevel
EDITS = {
    "add_prefix": add_prefix,
    "extract_model": extract_model,
    "saved at ORT_ENABLE_BASIC": optimized(LEVELS.ORT_ENABLE_BASIC),
    "saved at ORT_ENABLE_EXTENDED": optimized(LEVELS.ORT_ENABLE_EXTENDED),
    "quantize_dynamic": quantize_dynamic,
}


def main():
    found = []
    for model in json.load(sys.stdin):
        assert loads(model)
        found.append([])
        for name, edit in EDITS.items():
            # Beside the model, where its external data is.
            edited = str(Path(model).with_name("edited.onnx"))
            edit(model, edited)
            if loads(edited):
                found[-1].append(name)
    print(json.dumps(found))


main()
