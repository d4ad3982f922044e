"""Compares a model that takes adapters with the same model without them, in one session, while
adapters come and go.

Reads {"models", "adapters"} from standard input: pairs of models, and for each pair files of
adapters. Without an adapter all outputs must be the same bits, of a prompt and of steps with the
cache; with one they must not. Prints the number of comparisons."""

import json
import sys

import numpy as np
from runtime import Session

STEPS = 16


def outputs(session, ids):
    """All outputs for a prompt, and for the tokens after it one by one."""
    past, mask, found = session.empty_past(len(ids)), np.zeros((len(ids), 0), np.int64), []
    parts = [ids[:, :-STEPS]] + [ids[:, at : at + 1] for at in range(ids.shape[1] - STEPS, ids.shape[1])]
    for part in parts:
        mask = np.concatenate([mask, np.ones(part.shape, np.int64)], 1)
        feeds = dict(zip(session.past_names(), past), input_ids=part, attention_mask=mask)
        run = session.run(feeds)
        found += [run[name] for name in sorted(run)]
        past = [run[name.replace("past_key_values", "present")] for name in session.past_names()]
    return [value.tobytes() for value in found]


def main():
    request = json.load(sys.stdin)
    ids = np.random.default_rng(0).integers(0, 300, (2, 40))
    compared = 0
    for (swappable, plain), adapters in zip(request["models"], request["adapters"]):
        session, expected = Session(swappable), outputs(Session(plain), ids)
        for adapter in [None, *adapters, None]:
            session.use(adapter)
            assert (outputs(session, ids) == expected) == (adapter is None), (swappable, adapter)
            session.use(None)
            assert outputs(session, ids) == expected, swappable
            compared += 2 * len(expected)
    print(compared)


main()
