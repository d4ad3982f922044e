"""Runs models on several (B, T) and compares with a reference: attention is
causal, so a prefix of the reference's rows has a prefix of its logits.

Reads {"models", "shapes", "references": [{"ids", "logits"}]} from standard
input; rows come in turn from the first reference that is long enough. Prints
the largest absolute error."""

import json
import sys

import numpy as np
import onnxruntime


def main():
    request = json.load(sys.stdin)
    references = [(np.load(case["ids"]), np.load(case["logits"])) for case in request["references"]]
    worst = 0.0
    for path in request["models"]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for batch, length in request["shapes"]:
            ids, logits = next(pair for pair in references if pair[0].shape[1] >= length)
            rows = [row % len(ids) for row in range(batch)]
            found = session.run(["logits"], {"input_ids": ids[rows, :length]})[0]
            assert np.isfinite(found).all()
            assert found.shape == (batch, length, logits.shape[2]), found.shape
            worst = max(worst, float(np.abs(found - logits[rows, :length]).max()))
    print(json.dumps(worst))


main()
