"""Replies to messages by the likeliest tokens, computed anew for each token by a model without caches.

Reads {"model", "tokenizer", "messages", "history", "tokens", "ends"} from standard input. `history` is how a
conversation has an earlier reply, with `{}` in its place, which is trimmed if `trims`. Prints for each turn
{"prompt", "ids", "text"}."""

import json
import sys
from datetime import date

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def likeliest(session, ids):
    [logits] = session.run(["logits"], {"input_ids": np.array([ids])})
    return int(logits[0, -1].argmax())


def main():
    request = json.load(sys.stdin)
    session = onnxruntime.InferenceSession(request["model"])
    tokenizer = Tokenizer.from_file(request["tokenizer"])
    text, turns = f"<|start|>system<|message|>Current date: {date.today()}<|end|>", []
    for message in request["messages"]:
        text += f"<|start|>user<|message|>{message}<|end|>"
        prompt = tokenizer.encode(text + "<|start|>assistant", add_special_tokens=False).ids
        ids = []
        while len(ids) < request["tokens"] and (token := likeliest(session, prompt + ids)) not in request["ends"]:
            ids.append(token)
        reply = tokenizer.decode(ids, skip_special_tokens=False)
        turns.append({"prompt": prompt, "ids": ids, "text": reply})
        text += request["history"].replace("{}", reply.strip() if request["trims"] else reply)
    print(json.dumps(turns))


main()
