"""Computes in NumPy, from the logits of two models in onnxruntime, what `evaluate` reports of a
text: of the first model as the reference, and of the second.

Reads {"models", "ids", "window"} from standard input."""

import json
import sys

import numpy as np
from runtime import Session


def predictions(path, rows):
    logits = Session(path).logits(rows).astype(np.float64)[:, :-1]
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def estimate(sample):
    return sample.mean(), sample.std(ddof=1) / np.sqrt(sample.size)


def main():
    request = json.load(sys.stdin)
    window, ids = request["window"], np.load(request["ids"]).astype(np.int64)
    rows = ids[: len(ids) // window * window].reshape(-1, window)
    p, q = (predictions(path, rows) for path in request["models"])
    right = lambda x: np.take_along_axis(x, rows[:, 1:, None], axis=-1).ravel()
    exact, found = right(p), right(q)
    divergence = (np.exp(p) * (p - q)).sum(axis=-1).ravel()
    change = np.exp(found) - np.exp(exact)
    mean, error = estimate(-found)
    ratio, ratio_error = estimate(exact - found)
    squares, squares_error = estimate(change**2)
    share = (p.argmax(-1) == q.argmax(-1)).ravel().astype(float)
    quantile = lambda q: np.quantile(divergence, q, method="inverted_cdf")
    print(json.dumps({
        "perplexity": [np.exp(mean), np.exp(mean) * error],
        "perplexity_ratio": [np.exp(ratio), np.exp(ratio) * ratio_error],
        "kl_divergence.mean": list(estimate(divergence)),
        "kl_divergence.median": [quantile(0.5), None],
        "kl_divergence.p99": [quantile(0.99), None],
        "kl_divergence.p999": [quantile(0.999), None],
        "same_top": list(estimate(share)),
        "probability_change": [np.sqrt(squares), squares_error / (2 * np.sqrt(squares))],
        "max": divergence.max(),
    }))


main()
