"""Compares stages, run one after the other, with the whole model.

Reads [{"whole", "stages", "adapters"}] from standard input: files, and perhaps adapters for the whole
model and for its stages, [file, [file or null]]. Prints for each case the largest difference of logits
at tokens, and of all outputs where nothing is padding: of a prompt padded on the left, on the right or
not at all, and of the steps after it."""

import json
import sys

import numpy as np
from runtime import Session, open_model

STEPS = 6
# Longer than the windows of the fixtures, and than the caches of these.
LENGTHS = [(40, 40), (33, 4)]


def size(session, axis):
    size = session.shapes["input_ids"][axis]
    return size if isinstance(size, int) and size else None


def turns(session, lengths, padding):
    """Tokens and mask of each step."""
    random = np.random.default_rng(sum(lengths))
    batch, width = size(session, 0) or len(lengths), max(lengths)
    has_cache = bool(session.past_names())
    if length := size(session, 1):
        widths = [length] * (3 if has_cache else 1)
    else:
        widths = [width] + ([1] * STEPS if has_cache else [])
    for at, width in enumerate(widths):
        mask = np.ones((batch, width), np.int64)
        for row in range(batch):
            absent = max(0, width - lengths[row % len(lengths)]) if at == 0 else 0
            mask[row, : absent if padding == "left" else 0] = 0
            mask[row, width - absent if padding == "right" else width :] = 0
        yield random.integers(0, 100, mask.shape), mask


def run(session, lengths, padding):
    """The outputs of each step, with its mask."""
    past = mask = None
    for ids, here in turns(session, lengths, padding):
        mask = here if mask is None else np.concatenate([mask, here], 1)
        past = past or dict(zip(session.past_names(), session.empty_past(len(ids))))
        feeds = {"input_ids": ids, **past}
        if "attention_mask" in session.shapes:
            feeds["attention_mask"] = mask
        found = session.run(feeds)
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        yield here, found


def difference(case):
    whole, stages = Session(case["whole"]), open_model(case["stages"])
    for session, adapter in zip((whole, stages), case.get("adapters") or ()):
        session.use(adapter)
    worst = 0.0
    ways = [(lengths, padding) for lengths in LENGTHS for padding in ("left", "right")]
    ways = ways if "attention_mask" in whole.shapes else ways[:1]
    for lengths, padding in ways:
        for (mask, expected), (_, found) in zip(run(whole, lengths, padding), run(stages, lengths, padding)):
            assert set(whole.outputs) <= set(found), (case, set(found))
            is_whole = mask.all()
            for name in whole.outputs if is_whole else ["logits"]:
                wanted, got = expected[name], found[name]
                assert wanted.shape == got.shape and wanted.dtype == got.dtype, name
                if name == "logits" and wanted.shape[1] == mask.shape[1]:
                    wanted, got = wanted[mask == 1], got[mask == 1]
                assert np.isfinite(got).all()
                worst = max(worst, float(np.abs(wanted.astype(np.float64) - got).max(initial=0)))
    return worst


print(json.dumps([difference(case) for case in json.load(sys.stdin)]))
