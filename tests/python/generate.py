"""Generates with onnxruntime-genai from folders as they were exported, and
compares tokens and logits with references.

Reads {"folders", "adapters", "greedy", "references", "steps"} from standard input. `adapters` are
files by names; a reference may have the name of one as its `adapter`. `greedy`,
if given, is an .npy of prompts of `steps` fewer tokens, each continued by that
many of the largest logits. Prints for each folder the largest error of a logit, with
every token that should be generated asserted."""

import json
import sys

import numpy as np
import onnxruntime_genai as og


class Texts:
    """Some rows of tokens, being continued, perhaps with an adapter of some that are loaded."""

    def __init__(self, model, rows, longest, adapter=None):
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=longest, batch_size=len(rows))
        self.batch = len(rows)
        self.generator = og.Generator(model, parameters)
        if adapter:
            self.generator.set_active_adapter(*adapter)
        self.append(rows)

    def append(self, rows):
        width = max(map(len, rows))
        padded = np.full((len(rows), width), PAD, np.int32)
        for row, tokens in zip(padded, rows):
            row[: len(tokens)] = tokens
        self.generator.append_tokens(padded if self.batch > 1 else padded[0])

    def logits(self):
        return np.array(self.generator.get_logits()).reshape(self.batch, -1).copy()

    def generate(self, steps):
        tokens, logits = [], []
        for _ in range(steps):
            logits.append(self.logits())
            self.generator.generate_next_token()
            tokens.append(np.array(self.generator.get_next_tokens()).copy())
        return np.stack(tokens, 1), np.stack(logits, 1)


class Worst:
    """The largest error so far."""

    def __init__(self):
        self.error = 0.0

    def compare(self, found, expected):
        assert np.isfinite(found).all()
        self.error = max(self.error, float(np.abs(found - expected).max()))


def check_text(model):
    tokenizer = og.Tokenizer(model)
    tokens = tokenizer.encode("drab Ünit\n").tolist()
    assert 256 in tokens and tokenizer.decode(tokens) == "drab Ünit\n", tokens


def check_greedy(model, greedy, steps, worst):
    """The reference's own continuations, one by one, as a batch, and cut short."""
    prompts, longest = greedy.shape[1] - steps, greedy.shape[1]
    for row in greedy:
        tokens, _ = Texts(model, [row[:prompts]], longest).generate(steps)
        assert tokens[0].tolist() == row[prompts:].tolist(), (tokens, row)
    tokens, _ = Texts(model, list(greedy[:, :prompts]), longest).generate(steps)
    assert tokens.tolist() == greedy[:, prompts:].tolist()

    # Rows of unequal length, which genai pads: each continues as it does alone.
    rows = [greedy[0, :prompts], greedy[1, : prompts // 2], greedy[0, 3:4]]
    together, logits = Texts(model, rows, longest).generate(steps)
    for at, row in enumerate(rows):
        tokens, alone = Texts(model, [row], longest).generate(steps)
        assert together[at].tolist() == tokens[0].tolist()
        worst.compare(logits[at], alone[0])


def check_turns(model, greedy, steps, worst):
    """Tokens appended after generated ones, as a chat appends the next message."""
    prompt, first, second = greedy.shape[1] - steps, steps // 2, steps // 4
    for row in greedy:
        text = Texts(model, [row[:prompt]], len(row))
        text.generate(first)
        text.logits()  # computes the last generated token, which append_tokens would skip
        appended = prompt + first + second
        text.append([row[prompt + first : appended]])
        alone = Texts(model, [row[:appended]], len(row)).logits()
        worst.compare(text.logits(), alone)
        tokens, _ = text.generate(len(row) - appended)
        assert tokens[0].tolist() == row[appended:].tolist(), (tokens, row)


def check_given(model, ids, expected, worst, adapter=None):
    """Given tokens, in steps of one and of many. A reference may hold the last
    logits of its row only."""
    length, missing = ids.shape[1], ids.shape[1] - expected.shape[1]
    for begin in {max(3, missing + 1), (length + missing) // 2, length - 1}:
        text = Texts(model, [ids[0, :begin]], length + 1, adapter)
        worst.compare(text.logits()[0], expected[0, begin - 1 - missing])
        for at in range(begin, min(begin + 40, length)):
            text.append([ids[0, at : at + 1]])
            worst.compare(text.logits()[0], expected[0, at - missing])
    text = Texts(model, [ids[0, : length // 3]], length + 1, adapter)
    text.append([ids[0, length // 3 :]])
    worst.compare(text.logits()[0], expected[0, -1])


def main():
    global PAD
    request = json.load(sys.stdin)
    errors = []
    for folder in request["folders"]:
        with open(f"{folder}/genai_config.json") as file:
            PAD = json.load(file)["model"]["pad_token_id"]
        model, worst = og.Model(folder), Worst()
        check_text(model)
        if "greedy" in request:
            greedy = np.load(request["greedy"])
            check_greedy(model, greedy, request["steps"], worst)
            check_turns(model, greedy, request["steps"], worst)
        adapters = og.Adapters(model)
        for name, path in request.get("adapters", {}).items():
            adapters.load(path, name)
        for case in request["references"]:
            adapter = (adapters, case["adapter"]) if "adapter" in case else None
            check_given(model, np.load(case["ids"]), np.load(case["logits"]), worst, adapter)
        errors.append(worst.error)
    print(json.dumps(errors))


main()
