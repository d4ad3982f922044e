"""Runs models with a key-value cache step by step, as generation does, and compares all
logits with references: attention is causal, so whatever part of a reference's row comes in
whatever steps, its logits are the reference's.

Reads {"models", "adapters", "engine", "fresh", "last", "references", "ways"} from standard input;
a model is a file, or a
list of the files of its stages; if `fresh`, each way gets a session of its own. `adapters`, if given, are files that onnxruntime
adds, one for each model. A way is {"rows", "lengths", "padding", "chunks", "then", "steps", "undo",
"masked", "random", "buffers", "bound"}:
  rows     for each row of the batch, which row of the first reference that is
           long enough (modulo how many it has)
  lengths  tokens of each row's prompt
  padding  where shorter ones have it: left, right, both or between tokens
  chunks   in how many parts the prompt is given
  then     more prompts, which go on where the last one ended: lengths,
           padding and chunks of each
  steps    single tokens that follow
  undo     before each single token, how many wrong ones are given and taken back:
           their places are dropped from the mask and from the end of every cache
  masked   they become padding instead
  random   a seed: instead of a prompt, rows take 0 to 25 of their tokens in each
           step, at random places
  buffers  a symbol of a cache's length to the length of the buffer that it is, in which
           unused places have any content
  bound    past and present of each cache are one buffer, by IO binding
`last` says that the models give logits for each row's last token only. Prints
for each model the largest absolute error of each way."""

import json
import sys

import numpy as np
from runtime import open_model


class Model:
    """A model with the cache of a batch."""

    def __init__(self, path, engine, adapter):
        self.session = open_model(path, engine, adapter)
        self.names = self.session.past_names()

    def begin(self, batch, buffers, bound):
        self.mask = np.zeros((batch, 0), np.int64)
        self.past = self.session.empty_past(batch, buffers)
        self.bound = self.session.bound(dict(zip(self.names, self.past))) if bound else None

    def step(self, ids, mask):
        self.mask = np.concatenate([self.mask, mask], 1)
        if self.bound:
            return self.bound({"input_ids": ids, "attention_mask": self.mask})["logits"]
        feeds = dict(zip(self.names, self.past), input_ids=ids, attention_mask=self.mask)
        found = self.session.run(feeds)
        self.past = [found[name.replace("past_key_values", "present")] for name in self.names]
        return found["logits"]

    def undo(self, count, masked):
        if masked:
            self.mask[:, -count:] = 0
            return
        self.mask = self.mask[:, :-count]
        self.past = [np.ascontiguousarray(past[:, :, :-count]) for past in self.past]


def error(found, expected, mask, last):
    """The largest error at tokens; `found` may hold each row's last one only."""
    assert np.isfinite(found).all()
    errors = [0.0]
    for row, wanted, is_token in zip(found, expected, mask):
        places = np.flatnonzero(is_token)
        if not len(places):
            continue
        if last:
            assert len(row) == 1, row.shape
            wanted = wanted[places[-1:]]
        else:
            row, wanted = row[places], wanted[places]
        errors.append(float(np.abs(row - wanted).max()))
    return max(errors)


def places(length, width, padding):
    """Where the tokens of a row are."""
    if padding == "left":
        return np.arange(width - length, width)
    if padding == "both":
        return np.arange(length) + (width - length) // 2
    if padding == "between":
        return np.linspace(0, width - 1, length).astype(int)
    return np.arange(length)


def prompt(model, turn, ids, logits, begin, last):
    """Gives each row its next tokens; `logits` are NaN where none are known."""
    lengths = turn["lengths"]
    width, batch = max(lengths), len(lengths)
    tokens, mask = np.zeros((batch, width), np.int64), np.zeros((batch, width), np.int64)
    wanted = np.full((batch, width, logits.shape[2]), np.nan, np.float32)
    for row, length in enumerate(lengths):
        at = places(length, width, turn.get("padding"))
        tokens[row, at], mask[row, at] = ids[row, begin[row] : begin[row] + length], 1
        wanted[row, at] = logits[row, begin[row] : begin[row] + length]
    known = mask * ~np.isnan(wanted[:, :, 0])
    worst = 0.0
    for part in np.array_split(np.arange(width), turn.get("chunks", 1)):
        found = model.step(tokens[:, part], mask[:, part])
        worst = max(worst, error(found, wanted[:, part], known[:, part], last))
    begin += lengths
    return worst


def scattered(model, lengths, ids, logits, seed, last):
    """Rows take their tokens in random parts at random places, and may pause."""
    random, worst, begin = np.random.default_rng(seed), 0.0, np.zeros(len(lengths), int)
    while (begin < lengths).any():
        width = random.integers(1, 26)
        tokens = random.integers(0, 7, (len(lengths), width))
        mask, wanted = np.zeros_like(tokens), np.zeros((*tokens.shape, logits.shape[2]), np.float32)
        for row, left in enumerate(lengths - begin):
            count = min(left, random.integers(0, width + 1))
            at = np.sort(random.choice(width, count, replace=False))
            taken = slice(begin[row], begin[row] + count)
            tokens[row, at], mask[row, at], wanted[row, at] = ids[row, taken], 1, logits[row, taken]
        begin += mask.sum(1)
        worst = max(worst, error(model.step(tokens, mask), wanted, mask, last))
    return worst


def run(model, way, references, last):
    turns, steps = [way] + way.get("then", []), way.get("steps", 0)
    needed = sum(max(turn["lengths"]) for turn in turns) + steps
    ids, logits = next(pair for pair in references if pair[0].shape[1] >= needed)
    # A reference may hold the last logits of its row only.
    whole = np.full((*ids.shape, logits.shape[2]), np.nan, np.float32)
    whole[:, ids.shape[1] - logits.shape[1] :] = logits
    rows = [row % len(ids) for row in way["rows"]]
    ids, whole = ids[rows], whole[rows]

    model.begin(len(rows), way.get("buffers", {}), way.get("bound"))
    if "random" in way:
        return scattered(model, np.array(way["lengths"]), ids, whole, way["random"], last)
    begin = np.zeros(len(rows), int)
    worst = max(prompt(model, turn, ids, whole, begin, last) for turn in turns)
    one = np.ones((len(rows), 1), np.int64)
    for step in range(steps):
        if undo := way.get("undo"):
            wrong = (ids[:, :undo] + begin[0] + step) % logits.shape[2]
            model.step(wrong, np.ones_like(wrong))
            model.undo(undo, way.get("masked"))
        here = (np.arange(len(rows)), begin + step)
        found = model.step(ids[here][:, None], one)
        worst = max(worst, error(found, whole[here][:, None], one, last))
    return worst


def main():
    request = json.load(sys.stdin)
    references = [(np.load(case["ids"]), np.load(case["logits"])) for case in request["references"]]
    last = request.get("last", False)
    results = []
    models = request["models"]
    for path, adapter in zip(models, request.get("adapters") or [None] * len(models)):
        model, errors = None, []
        for way in request["ways"]:
            if model is None or request.get("fresh"):
                model = Model(path, request.get("engine"), adapter)
            errors.append(run(model, way, references, last))
        results.append(errors)
    print(json.dumps(results))


main()
