"""Runs one model in onnxruntime, in a process of its own.

Reads a request as JSON from standard input and prints what it found: with
`"measure": "speed"` seconds and memory; with `"measure": "logits"` it writes the logits
of the tokens in `ids` to `logits`, both .npy files.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

from measure import memory_of

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class Model:
    """A decoder with or without a cache, whoever exported it."""

    def __init__(self, request):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            request["model"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.past = [name for name in self.inputs if name.startswith("past_key_values")]
        self.cache_shape = (1, request["kv_heads"], 0, request["head_dim"])
        self.restart()

    def restart(self):
        """Forgets the text."""
        self.length = 0
        self.cache = {
            name: np.zeros(self.cache_shape, TYPES[self.inputs[name].type]) for name in self.past
        }

    def step(self, ids):
        """The logits `[T, vocabulary]` of more tokens `[T]` (or of the last one alone,
        where the model gives no others)."""
        start, self.length = self.length, self.length + len(ids)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones(self.length),
            "position_ids": np.arange(start, self.length),
        }
        feeds = {
            name: value[None].astype(TYPES[self.inputs[name].type])
            for name, value in feeds.items()
            if name in self.inputs
        }
        found = dict(zip(self.outputs, self.session.run(None, {**feeds, **self.cache})))
        for name in self.past:
            self.cache[name] = found[name.replace("past_key_values", "present")]
        return found["logits"][0]


def speed(request):
    """Seconds to load, for each prompt (the faster of two runs), and of the median step
    after the last prompt that was run. A prompt that would take longer than `patience` seconds at the pace of
    the one before is left out."""
    start = time.perf_counter()
    model = Model(request)
    found = {"load": time.perf_counter() - start, "resident": memory_of()["VmRSS"]}
    ids = np.random.default_rng(0).integers(0, request["vocabulary"], 4096)
    model.step(ids[:1])
    prompts, pace = dict.fromkeys(request["prompts"]), 0.0
    for count in request["prompts"]:
        if pace * count > request["patience"]:
            break
        try:
            prompts[count] = min(prompt_seconds(model, ids[:count]) for _ in range(2))
        except Exception as error:
            prompts[count], found["refused"] = None, f"a prompt of {count}: {error}"
            break
        pace = prompts[count] / count
    steps = []
    for at in range(request["steps"] if model.past else 0):
        start = time.perf_counter()
        model.step(ids[at : at + 1])
        steps.append(time.perf_counter() - start)
    found["prompts"] = prompts
    found["step"] = float(np.median(steps)) if steps else None
    return {**found, "peak": memory_of()["VmHWM"]}


def prompt_seconds(model, ids):
    model.restart()
    start = time.perf_counter()
    model.step(ids)
    return time.perf_counter() - start


def logits(request):
    """The logits of a prompt and, with a cache, of `steps` tokens given one by one."""
    model, ids = Model(request), np.load(request["ids"])
    steps = request["steps"] if model.past else 0
    prompt = len(ids) - steps
    found = [model.step(ids[:prompt])] + [
        model.step(ids[at : at + 1]) for at in range(prompt, len(ids))
    ]
    np.save(request["logits"], np.concatenate(found).astype(np.float32))
    return {}


def main():
    request = json.load(sys.stdin)
    measures = {"speed": speed, "logits": logits}
    print(json.dumps(measures[request["measure"]](request)))


if __name__ == "__main__":
    main()
