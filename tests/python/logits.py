"""Runs a model on token ids and compares its logits with a reference.

Reads {"model", "engine", "cases": [{"ids", "logits"}]} from standard input,
paths of .npy files, and prints for each case the largest absolute error and
the shape of the output. A reference that is shorter than the output is
compared with its last rows; "columns", if given, says which of its logits each
logit of the model should equal.
"""

import json
import sys

import numpy as np


def runner(path, engine):
    if engine == "reference":
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(path)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(["logits"], {"input_ids": ids})[0]


def main():
    request = json.load(sys.stdin)
    run = runner(request["model"], request["engine"])
    results = []
    for case in request["cases"]:
        ids, expected = np.load(case["ids"]), np.load(case["logits"])
        if "columns" in case:
            expected = expected[:, :, case["columns"]]
        found = run(ids)
        tail = found[:, -expected.shape[1] :]
        assert tail.shape == expected.shape, (tail.shape, expected.shape)
        results.append({"error": float(np.abs(tail - expected).max()), "shape": list(found.shape)})
    print(json.dumps(results))


main()
