"""Runs models on a text in windows, and compares the distributions of its tokens.

Reads {"models", "ids", "windows"} from standard input. Prints for each model and window what
its text costs (mean negative log-likelihood, in nats), how far the distributions of the first
model are (mean Kullback-Leibler divergence, in nats), and the share of equal likeliest tokens."""

import json
import sys

import numpy as np
from runtime import Session


def log_probabilities(model, rows):
    logits = model.logits(rows).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def measure(models, ids, window):
    rows = ids[: len(ids) // window * window].reshape(-1, window)
    sums, exact = [np.zeros(3) for _ in models], None
    # A few rows at a time bound the memory.
    for part in np.array_split(rows, max(1, rows.size // 2048)):
        for at, model in enumerate(models):
            # The first token of a window is given, the last predicts a token outside.
            found = log_probabilities(model, part)[:, :-1]
            exact = found if at == 0 else exact
            likelihood = np.take_along_axis(found, part[:, 1:, None], axis=-1)
            divergence = (np.exp(exact) * (exact - found)).sum()
            same = (found.argmax(-1) == exact.argmax(-1)).sum()
            sums[at] += [-likelihood.sum(), divergence, same]
    count = len(rows) * (window - 1)
    return [list(total / count) for total in sums]


def main():
    request = json.load(sys.stdin)
    models = [Session(path) for path in request["models"]]
    ids = np.load(request["ids"]).astype(np.int64)
    print(json.dumps([measure(models, ids, window) for window in request["windows"]]))


main()
