"""A chat with an exported model in onnxruntime, by the likeliest tokens.

    pip install onnxruntime numpy tokenizers jinja2
    python chat.py MODEL.onnx --tokenizer FOLDER

FOLDER is the checkpoint's: it has `tokenizer.json`, `chat_template.jinja` and the configs. Each line of
the input is a message, and its end ends the chat."""

import argparse
import json
import sys
from datetime import datetime
from os.path import commonprefix
from pathlib import Path

import numpy as np
import onnxruntime as ort
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
CHUNK = 128  # Tokens of a step: of a long text, more would take gigabytes.


class Model:
    """A model, and the caches of the tokens that it has read."""

    def __init__(self, path):
        self.session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self.session.get_outputs()]
        inputs = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]
        if not inputs:
            raise SystemExit(f"`{path}` has no caches: export it for onnxruntime.")
        self.past = {it.name: np.zeros((1, it.shape[1], 0, it.shape[3]), DTYPES[it.type]) for it in inputs}
        # How many tokens a layer sees: `P` past places are all, `P_128` those of a window.
        self.windows = {it.name: float(it.shape[2][2:] or "inf") for it in inputs}
        self.read = []

    def keep(self, tokens):
        """Takes back what the caches have beyond the start of these tokens, and returns how many stay."""
        kept = len(commonprefix([self.read, tokens[:-1]]))
        back = len(self.read) - kept
        # Caches of sliding layers have dropped tokens. The next token sees itself and what is before it.
        if any(it.shape[2] - back < min(kept, self.windows[name] - 1) for name, it in self.past.items()):
            kept, back = 0, len(self.read)
        self.past = {name: it[:, :, : max(it.shape[2] - back, 0)] for name, it in self.past.items()}
        self.read = tokens[:kept]
        return kept

    def next(self, tokens):
        """The likeliest token after these, of which only those without a cache are computed."""
        for begin in range(self.keep(tokens), len(tokens), CHUNK):
            ids = np.array([tokens[begin : begin + CHUNK]], np.int64)
            mask = np.ones((1, begin + ids.size), np.int64)
            found = self.session.run(None, {"input_ids": ids, "attention_mask": mask, **self.past})
            found = dict(zip(self.outputs, found))
            self.past = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        self.read = list(tokens)
        return int(found["logits"][0, -1].argmax())


class Chat:
    """A conversation as the tokens of a checkpoint's chat template, and a model that continues it."""

    def __init__(self, model, folder):
        self.model, self.messages = model, []
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.template = environment.from_string((folder / "chat_template.jinja").read_text("utf-8"))
        self.ends = end_tokens(folder)

    def reply(self, message, limit):
        """Streams the reply to a message as texts of whole characters."""
        self.messages.append({"role": "user", "content": message})
        text = self.template.render(messages=self.messages, add_generation_prompt=True)
        prompt = self.tokenizer.encode(text, add_special_tokens=False).ids
        kept, reply, stream = self.model.keep(prompt), [], DecodeStream(skip_special_tokens=False)
        print(f"[prompt of {len(prompt)} tokens, {kept} of them in caches]", file=sys.stderr)
        while len(reply) < limit and (token := self.model.next(prompt + reply)) not in self.ends:
            reply.append(token)
            yield stream.step(self.tokenizer, token) or ""
        # Of a reply in harmony's channels the template wants the last one.
        content = self.tokenizer.decode(reply, skip_special_tokens=False).split("<|message|>")[-1]
        self.messages.append({"role": "assistant", "content": content})


def end_tokens(folder):
    for path in (folder / "generation_config.json", folder / "config.json"):
        found = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.exists() else None
        if found is not None:
            return found if isinstance(found, list) else [found]
    raise SystemExit(f"`{folder}` has no config that names an `eos_token_id`, which ends replies.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="the folder of the tokenizer; the model's without it")
    parser.add_argument("--max-new-tokens", type=int, default=2048, help="of a reply")
    request = parser.parse_args()
    chat = Chat(Model(request.model), request.tokenizer or request.model.parent)
    for line in sys.stdin:
        for text in chat.reply(line.rstrip("\n"), request.max_new_tokens):
            print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
