"""Runs a model on token ids and compares its logits with a reference.

Reads {"model", "engine", "cases": [{"ids", "logits"}]} from standard input,
paths of .npy files, and prints for each case the largest absolute error and
the shape of the output. A reference that is shorter than the output is
compared with its last rows. "length", if given, is how many of the tokens to
run; "repeats" says where in a larger vocabulary the reference's stands, again
and again, among tokens whose logits are 0.
"""

import json
import sys

import numpy as np
from inputs import without_past


def runner(path, engine):
    if engine == "reference":
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(path)
        return lambda ids: session.run(["logits"], {"input_ids": ids})[0]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(["logits"], without_past(session, ids))[0]


def main():
    request = json.load(sys.stdin)
    run = runner(request["model"], request["engine"])
    results = []
    for case in request["cases"]:
        ids, expected = np.load(case["ids"]), np.load(case["logits"])
        length = case.get("length", ids.shape[1])
        if length < ids.shape[1]:
            ids, expected = ids[:, :length], expected[:, :length]
        found = run(ids)
        if "repeats" in case:
            size = expected.shape[2]
            whole = np.zeros(found.shape, np.float32)
            for start in case["repeats"]:
                whole[:, :, start : start + size] = expected
            expected = whole
        tail = found[:, -expected.shape[1] :]
        assert np.isfinite(found).all()
        assert tail.shape == expected.shape, (tail.shape, expected.shape)
        results.append({"error": float(np.abs(tail - expected).max()), "shape": list(found.shape)})
    print(json.dumps(results))


main()
