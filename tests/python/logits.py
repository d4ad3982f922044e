"""Runs models on token ids and compares their logits with references.

Reads {"models", "engine", "cases"} from standard input, and prints for each model the
largest absolute error in each case. A case has "ids", "logits" or "model", and others:
  ids      an .npy file of token ids
  logits   an .npy file of logits for all tokens, or for the last ones
  model    a model that computes the logits instead
  adapter  a file with an adapter that the models get
  length   how many tokens of each row to run: attention is causal, so their logits are a
           prefix of the reference's
  rows     how many rows to run, which are the reference's in turn
  repeats  where in a larger vocabulary the reference's stands, again and again, among
           tokens whose logits are 0"""

import json
import sys

import numpy as np
from runtime import Session


def error(model, case):
    ids = np.load(case["ids"])
    expected = np.load(case["logits"]) if "logits" in case else Session(case["model"]).logits(ids)
    assert np.abs(expected).max() > 0.1, "there is something to compare"
    if "adapter" in case:
        model.use(case["adapter"])
    length = case.get("length", ids.shape[1])
    if length < ids.shape[1]:
        ids, expected = ids[:, :length], expected[:, :length]
    rows = np.arange(case.get("rows", len(ids))) % len(ids)
    ids, expected = ids[rows], expected[rows]
    found = model.logits(ids)
    if "repeats" in case:
        size = expected.shape[2]
        whole = np.zeros(found.shape, np.float32)
        for start in case["repeats"]:
            whole[:, :, start : start + size] = expected
        expected = whole
    assert found.shape[:2] == ids.shape, found.shape
    tail = found[:, -expected.shape[1] :]
    assert np.isfinite(found).all()
    assert tail.shape == expected.shape, (tail.shape, expected.shape)
    return float(np.abs(tail - expected).max())


def main():
    request = json.load(sys.stdin)
    models = [Session(path, request["engine"]) for path in request["models"]]
    print(json.dumps([[error(model, case) for case in request["cases"]] for model in models]))


main()
