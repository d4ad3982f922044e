"""Runs models that have a key-value cache in the ways that generation does, and
compares all logits with references: attention is causal, so whatever part of a
reference's row comes in whatever steps, its logits are the reference's.

Reads {"models", "engine", "last", "references", "ways"} from standard input. A
way is {"rows", "lengths", "padding", "chunks", "steps"}:
  rows     for each row of the batch, which row of the first reference that is
           long enough (modulo how many it has)
  lengths  tokens of each row's prompt; shorter ones are padded on `padding`
  chunks   in how many parts the prompt is given
  steps    single tokens that follow
`last` says that the models give logits for each row's last token only. Prints
for each model the largest absolute error of each way."""

import json
import sys

import numpy as np


def session(path, engine):
    if engine == "reference":
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(path)
        inputs = {value.name: shape_of(value) for value in evaluator.proto_.graph.input}
        return lambda feeds: dict(zip(evaluator.output_names, evaluator.run(None, feeds))), inputs
    import onnxruntime

    runtime = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in runtime.get_outputs()]
    inputs = {value.name: value.shape for value in runtime.get_inputs()}
    return lambda feeds: dict(zip(names, runtime.run(None, feeds))), inputs


def shape_of(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


class Model:
    """A model with the cache of a batch."""

    def __init__(self, path, engine):
        self.run, self.inputs = session(path, engine)
        self.names = [name for name in self.inputs if name.startswith("past_key_values.")]

    def begin(self, batch):
        self.mask = np.zeros((batch, 0), np.int64)
        heads_and_width = [(self.inputs[name][1], self.inputs[name][3]) for name in self.names]
        self.past = [np.zeros((batch, heads, 0, width), np.float32) for heads, width in heads_and_width]

    def step(self, ids, mask):
        self.mask = np.concatenate([self.mask, mask], 1)
        feeds = dict(zip(self.names, self.past), input_ids=ids, attention_mask=self.mask)
        found = self.run(feeds)
        self.past = [found[name.replace("past_key_values", "present")] for name in self.names]
        return found["logits"]


def error(found, expected, mask, last):
    """The largest error at tokens; `found` may hold each row's last one only."""
    worst = 0.0
    for row, wanted, is_token in zip(found, expected, mask):
        places = np.flatnonzero(is_token)
        if not len(places):
            continue
        if last:
            assert len(row) == 1, row.shape
            row, wanted = row, wanted[places[-1:]]
        else:
            row, wanted = row[places], wanted[places]
        worst = max(worst, float(np.abs(row - wanted).max()))
    return worst


def run(model, way, references, last):
    lengths, steps = way["lengths"], way.get("steps", 0)
    needed = max(lengths) + steps
    ids, logits = next(pair for pair in references if pair[0].shape[1] >= needed)
    rows = [row % len(ids) for row in way["rows"]]
    # A reference may hold the last logits of its row only.
    missing = ids.shape[1] - logits.shape[1]
    width, batch = max(lengths), len(rows)
    prompt, mask = np.zeros((batch, width), np.int64), np.zeros((batch, width), np.int64)
    wanted = np.zeros((batch, width, logits.shape[2]), np.float32)
    for at, (row, length) in enumerate(zip(rows, lengths)):
        place = slice(width - length, width) if way.get("padding") == "left" else slice(0, length)
        prompt[at, place], mask[at, place] = ids[row, :length], 1
        known = np.arange(missing, length)
        wanted[at, np.arange(width)[place][missing:]] = logits[row, known - missing]
    compared = mask.copy()
    if missing:
        assert batch == 1
        compared[:, :missing] = 0

    model.begin(batch)
    worst = 0.0
    for part in np.array_split(np.arange(width), way.get("chunks", 1)):
        found = model.step(prompt[:, part], mask[:, part])
        worst = max(worst, error(found, wanted[:, part], compared[:, part], last))
    for step in range(steps):
        next_ids = np.array([[ids[row, length + step]] for row, length in zip(rows, lengths)])
        expected = np.array([[logits[row, length + step - missing]] for row, length in zip(rows, lengths)])
        one = np.ones((batch, 1), np.int64)
        worst = max(worst, error(model.step(next_ids, one), expected, one, last))
    return worst


def main():
    request = json.load(sys.stdin)
    references = [(np.load(case["ids"]), np.load(case["logits"])) for case in request["references"]]
    results = []
    for path in request["models"]:
        model = Model(path, request.get("engine", "onnxruntime"))
        results.append([run(model, way, references, request.get("last", False)) for way in request["ways"]])
    print(json.dumps(results))


main()
