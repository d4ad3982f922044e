"""Prints the largest difference between the logits of two models for the same
tokens. Reads {"models", "ids"} from standard input."""

import json
import sys

import numpy as np
import onnxruntime


def main():
    request = json.load(sys.stdin)
    ids = np.load(request["ids"])
    found = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["logits"], {"input_ids": ids})[0]
        for path in request["models"]
    ]
    assert all(np.isfinite(logits).all() for logits in found)
    assert np.abs(found[0]).max() > 0.1, "the models say something"
    print(json.dumps(float(np.abs(found[0] - found[1]).max())))


main()
