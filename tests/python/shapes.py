"""Runs one model on several (B, T) and checks that attention is causal: the
logits of a prefix are those of the whole. Prints the largest difference, and
the differences between a second model and the first."""

import json
import sys

import numpy as np
import onnxruntime


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(model, ids):
    return model.run(["logits"], {"input_ids": ids})[0]


def main():
    request = json.load(sys.stdin)
    first = session(request["model"])
    others = [session(path) for path in request["others"]]
    random = np.random.default_rng(3)
    prefix, between = 0.0, 0.0
    for batch, length in request["shapes"]:
        ids = random.integers(0, request["vocab"], (batch, length))
        whole = run(first, ids)
        assert whole.shape == (batch, length, request["vocab"]) and np.isfinite(whole).all()
        for cut in {1, (length + 1) // 2, length}:
            row = run(first, ids[batch - 1 :, :cut])
            prefix = max(prefix, float(np.abs(row[0] - whole[batch - 1, :cut]).max()))
        for other in others:
            between = max(between, float(np.abs(run(other, ids) - whole).max()))
    print(json.dumps({"prefix": prefix, "between": between}))


main()
