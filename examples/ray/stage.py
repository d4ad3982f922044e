"""One stage of a model in onnxruntime, with the caches of the batches that it continues."""

import time
from dataclasses import dataclass

import numpy as np
import onnxruntime

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
LOST = "the caches of this request are lost: send it again."


@dataclass
class Cache:
    """Keys and values of a batch by input, `[rows, heads, positions, width]`; the positions that all its
    rows may come to take; and when it was last used."""

    past: dict
    reserved: int
    used: float


class Stage:
    def __init__(self, path, threads, positions, idle_seconds):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = self.session.get_inputs()
        self.past = [value for value in inputs if value.name.startswith("past_key_values.")]
        if not self.past or any(isinstance(size, int) for size in inputs[0].shape[:2]):
            raise ValueError(f"`{path}` has no caches or fixed sizes: export it with caches and without sizes.")
        self.outputs = {value.name: value.shape for value in self.session.get_outputs()}
        self.positions, self.idle_seconds, self.caches = positions, idle_seconds, {}

    def step(self, batch, values, mask, rows, reserved):
        """Continues a batch by `values`, token ids or hidden states by name. Returns hidden states by
        name, or from the last stage the likeliest next token of each row.

        `mask` is int64 `[rows, positions so far]`. `rows` are those to keep of the step before; the first
        step has None, and reserves positions."""
        if rows is None:
            self.caches[batch] = self.empty(len(mask), reserved)
        elif batch not in self.caches:
            raise RuntimeError(LOST)
        cache = self.caches[batch]
        if rows is not None and len(rows) < len(next(iter(cache.past.values()))):
            cache.past = {name: array[rows] for name, array in cache.past.items()}
        feeds = {**values, "attention_mask": mask, **cache.past}
        found = dict(zip(self.outputs, self.session.run(None, feeds)))
        cache.past = {name: found.pop(name.replace("past_key_values", "present")) for name in cache.past}
        cache.used = time.monotonic()
        return found["logits"][:, -1].argmax(-1) if "logits" in found else found

    def empty(self, rows, reserved):
        # A client that is gone frees nothing.
        latest = time.monotonic() - self.idle_seconds
        self.caches = {batch: cache for batch, cache in self.caches.items() if cache.used > latest}
        if self.reserved() + reserved > self.positions:
            raise RuntimeError(
                f"of {self.positions} positions in caches {self.reserved()} are taken, and this batch needs "
                f"{reserved}: try again later."
            )
        shapes = {value.name: (rows, value.shape[1], 0, value.shape[3]) for value in self.past}
        past = {value.name: np.zeros(shapes[value.name], DTYPES[value.type]) for value in self.past}
        return Cache(past, reserved, time.monotonic())

    def free(self, batch):
        self.caches.pop(batch, None)

    def reserved(self):
        """Positions that batches may come to take."""
        return sum(cache.reserved for cache in self.caches.values())

    def vocabulary(self):
        """Tokens that the last stage chooses from."""
        return self.outputs["logits"][2]
