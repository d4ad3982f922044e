"""Runs models in onnxruntime, each time in a process of its own."""

import json
import sys
from pathlib import Path
from statistics import median

import numpy as np

from machine import room
from measure import watch

ENGINE = Path(__file__).parent / "engine.py"
PIECE = 1 << 24


def speeds(entries, request, rounds):
    """Runs all models in turn, `rounds` times, and adds the medians to their entries."""
    found = [[] for _ in entries]
    for _ in range(rounds):
        for entry, answers in zip(entries, found):
            if "model" in entry and not any("failure" in answer for answer in answers):
                warm(Path(entry["model"]))
                answers.append(ask(entry, {**request, "measure": "speed"}))
    for entry, answers in zip(entries, found):
        if answers:
            failed = [answer for answer in answers if "failure" in answer]
            entry["run"] = failed[0] if failed else medians(answers)


def medians(answers):
    """The median of each figure, nothing where one is missing; words as they were said."""
    first = answers[0]
    if isinstance(first, dict):
        return {name: medians([answer.get(name) for answer in answers]) for name in first}
    if isinstance(first, str):
        return first
    return None if None in answers else median(answers)


def errors(entries, request, ids, home: Path):
    """Adds to each entry how far its logits are from those of the first."""
    np.save(home / "ids.npy", ids)
    place, reference = home / "logits.npy", None
    asked = {**request, "measure": "logits", "ids": str(home / "ids.npy"), "logits": str(place)}
    for entry in entries:
        if "model" in entry:
            entry["error"] = ask(entry, asked)
            if "failure" not in entry["error"]:
                found = np.load(place)
                reference = found if reference is None else reference
                entry["error"] = difference(reference, found)


def difference(reference, found):
    """The largest difference of a logit, the mean Kullback-Leibler divergence in nats
    from the reference's probabilities, and the share of places with the same largest."""
    reference = reference[-len(found) :].astype(np.float64)
    expected, given = log_probabilities(reference), log_probabilities(found.astype(np.float64))
    return {
        "max": float(np.abs(reference - found).max()),
        "kl": float((np.exp(expected) * (expected - given)).sum(-1).mean()),
        "same_top": float((reference.argmax(-1) == found.argmax(-1)).mean()),
        "places": len(found),
        "largest": float(np.abs(reference).max()),
    }


def log_probabilities(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def ask(entry, request):
    """What the engine says of a model, with its own memory; or how it failed."""
    run = watch(
        [sys.executable, ENGINE],
        request=json.dumps({**request, "model": entry["model"]}),
        limit=20 * request["patience"],
        memory=room(),
    )
    if run.failure():
        return {"failure": run.failure()}
    return {**json.loads(run.output), "own": run.own}


def warm(model: Path):
    """Reads a model's files, so that loading does not wait for the disk."""
    folder = model.parent
    files = [model] if (folder / "checkpoint").is_dir() else folder.iterdir()
    for path in [*files, *folder.glob("checkpoint/*")]:
        with open(path, "rb") as file:
            while file.read(PIECE):
                pass
