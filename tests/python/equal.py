"""Prints the largest difference between the logits of two models for the same
tokens, without a past. Reads {"models", "ids"} from standard input."""

import json
import sys

import numpy as np
import onnxruntime
from inputs import without_past


def logits(path, ids):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], without_past(session, ids))[0]


def main():
    request = json.load(sys.stdin)
    ids = np.load(request["ids"])
    one, other = (logits(path, ids) for path in request["models"])
    assert np.isfinite(one).all() and np.isfinite(other).all()
    assert np.abs(one).max() > 0.1, "the models say something"
    print(json.dumps(float(np.abs(one - other).max())))


main()
