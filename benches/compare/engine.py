"""Runs a model in onnxruntime. Takes a request as JSON and prints times and memory or, if it
names `ids`, writes the logits of those tokens to `logits`, both .npy files."""

import json
import os
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

TYPES = {"float": np.float32, "float16": np.float16, "int64": np.int64, "int32": np.int32}
PROMPT_LIMIT = 60  # seconds


class Model:
    """A decoder of any exporter, with or without a KV cache."""

    def __init__(self, path, config):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        types = {value.name: value.type for value in self.session.get_inputs()}
        self.inputs = {name: TYPES[kind[len("tensor(") : -1]] for name, kind in types.items()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.past = [name for name in self.inputs if name.startswith("past_key_values")]
        self.cache_shape = (1, config["num_key_value_heads"], 0, config["head_dim"])

    def prompt(self, ids):
        """Starts a new sequence."""
        self.length = 0
        self.cache = {name: np.zeros(self.cache_shape, self.inputs[name]) for name in self.past}
        return self.step(ids)

    def step(self, ids):
        """Appends tokens `[T]` and returns their logits `[T, vocabulary]`, or only the last
        token's if the model computes no others."""
        start, self.length = self.length, self.length + len(ids)
        values = {
            "input_ids": ids,
            "attention_mask": np.ones(self.length),
            "position_ids": np.arange(start, self.length),
        }
        names = values.keys() & self.inputs.keys()
        feeds = {name: values[name][None].astype(self.inputs[name]) for name in names}
        found = dict(zip(self.outputs, self.session.run(None, feeds | self.cache)))
        self.cache = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        return found["logits"][0]


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def speed(request):
    """Seconds to load, for each prompt (the faster of two runs), and of the median decode
    step. A prompt is skipped if it would exceed the limit at the pace of the one before."""
    start = time.perf_counter()
    model = Model(request["model"], request["config"])
    load, pages = time.perf_counter() - start, int(Path("/proc/self/statm").read_text().split()[1])
    found = {"load": load, "resident": pages * os.sysconf("SC_PAGE_SIZE")}
    ids = np.random.default_rng(0).integers(0, request["config"]["vocab_size"], 4096)
    model.prompt(ids[:1])
    prompts, pace = dict.fromkeys(request["prompts"]), 0.0
    for count in request["prompts"]:
        if pace * count > PROMPT_LIMIT:
            break
        try:
            prompts[count] = min(seconds(model.prompt, ids[:count]) for _ in range(2))
        except Exception as error:
            found["refused"] = f"a prompt of {count}: {error}"
            break
        pace = prompts[count] / count
    steps = [seconds(model.step, ids[at : at + 1]) for at in range(24 if model.past else 0)]
    return {**found, "prompts": prompts, "step": median(steps) if steps else None}


def logits(request):
    """The logits of a prompt and, with a cache, of 8 more tokens given one by one."""
    model, ids = Model(request["model"], request["config"]), np.load(request["ids"])
    prompt = len(ids) - (8 if model.past else 0)
    steps = [model.prompt(ids[:prompt]), *map(model.step, ids[prompt:, None])]
    np.save(request["logits"], np.concatenate(steps).astype(np.float32))
    return {}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(logits(request) if "ids" in request else speed(request)))
