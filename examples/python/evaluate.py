"""Perplexity of models on a text, and how far the others are from the first.

    pip install onnxruntime numpy tokenizers
    python evaluate.py MODEL.onnx [OTHER.onnx ...] --text FILE --tokenizer FOLDER

FOLDER has the `tokenizer.json` that splits the text. Windows do not overlap; each predicts all of its
tokens but the first, and an incomplete last one is left out. The divergence is in nats."""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Model:
    """A model that computes the logits of whole windows."""

    def __init__(self, path):
        self.path, self.session = path, ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = self.session.get_inputs()

    def logits(self, window):
        """Logits [T, vocab] of T tokens with nothing before them."""
        feeds = {"input_ids": window[None], "attention_mask": np.ones((1, len(window)), np.int64)}
        for it in self.inputs:
            if it.name.startswith("past_key_values."):
                feeds[it.name] = np.zeros((1, it.shape[1], 0, it.shape[3]), DTYPES[it.type])
        [[logits]] = self.session.run(["logits"], {it.name: feeds[it.name] for it in self.inputs})
        if len(logits) < len(window):
            raise SystemExit(f"`{self.path}` gives the logits of the last token only: export it with those of all.")
        return logits


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())


def measure(models, tokens, width):
    """For each model the means of −ln q of the right token, of the divergence from the first model, and of
    whether both have the same likeliest token."""
    windows = tokens[: len(tokens) // width * width].reshape(-1, width)
    sums = np.zeros((len(models), 3))
    for window in windows:
        # One place after the other: float64 for all of a large vocabulary would take gigabytes.
        for right, *rows in zip(window[1:], *(model.logits(window) for model in models)):
            found = [log_softmax(row) for row in rows]
            first = found[0]
            for sum_, q in zip(sums, found):
                sum_ += -q[right], np.exp(first) @ (first - q), q.argmax() == first.argmax()
    return sums / (len(windows) * (width - 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True, help="a file in UTF-8")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the folder of the tokenizer")
    parser.add_argument("--tokens", type=int, default=512, help="of a window")
    request = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(request.tokenizer / "tokenizer.json"))
    text = request.text.read_bytes().decode("utf-8")
    tokens = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    if not 2 <= request.tokens <= len(tokens):
        parser.error(f"a window has from 2 to the {len(tokens)} tokens of the text, not {request.tokens}")
    means = measure([Model(path) for path in request.models], tokens, request.tokens)
    print("| model | perplexity | KL divergence | same likeliest token |\n|---|---|---|---|")
    for path, (loss, divergence, same) in zip(request.models, means):
        print(f"| {path.name} | {np.exp(loss):.5f} | {divergence:.2e} | {same:.2%} |")


if __name__ == "__main__":
    main()
