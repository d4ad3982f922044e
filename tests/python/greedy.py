"""Continues a prompt by the likeliest token, with the cache of each model.

Reads {"models", "prompt", "tokens"} from standard input, and prints the new tokens of each."""

import json
import sys

import numpy as np
from runtime import Session


def continued(model, prompt, count):
    past, ids, tokens = model.empty_past(1), np.array([prompt]), []
    for _ in range(count):
        feeds = dict(zip(model.past_names(), past), input_ids=ids)
        if "attention_mask" in model.shapes:
            feeds["attention_mask"] = np.ones((1, len(prompt) + len(tokens)), np.int64)
        found = model.run(feeds)
        past = [found[name.replace("past_key_values", "present")] for name in model.past_names()]
        ids = found["logits"][:, -1:].argmax(-1)
        tokens.append(int(ids[0, 0]))
    return tokens


def main():
    request = json.load(sys.stdin)
    models = [Session(path) for path in request["models"]]
    print(json.dumps([continued(model, request["prompt"], request["tokens"]) for model in models]))


main()
