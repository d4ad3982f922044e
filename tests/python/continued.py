"""Generates with onnxruntime-genai from a folder whose generators may draft tokens.

Reads {"folder", "prompts", "steps", "second", "rewinds"} from standard input. Continues each prompt by
`steps` of the likeliest tokens or up to one that ends a text, then gives it the tokens `second` as a
chat gives the next message, by rewinding if `rewinds`, and asserts that the logits are those of the
whole text at once. Prints for each prompt the new tokens,
how many were drafted, and how many of these were right."""

import json
import sys

import numpy as np
import onnxruntime_genai as og


def begun(model, text, longest):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=longest)
    generator = og.Generator(model, parameters)
    generator.append_tokens(np.array(text, np.int32))
    return generator


def go_on(generator, second, rewinds):
    """Gives more tokens. The last one generated has no place in the caches yet, and append_tokens
    would skip it; a token that ends a text is not part of it, and all others have their places."""
    text = generator.get_sequence(0).tolist()
    if rewinds:
        generator.rewind_to(len(text) - 1)
        second = text[-1:] + second
    elif not generator.is_done():
        generator.get_logits()
    generator.append_tokens(np.array(second, np.int32))


def continued(model, prompt, steps, second, rewinds):
    longest = len(prompt) + steps + len(second) + 1
    generator = begun(model, prompt, longest)
    for _ in range(steps):
        if not generator.is_done():
            generator.generate_next_token()
    text = generator.get_sequence(0).tolist()
    drafts = generator.get_speculative_stats()
    go_on(generator, second, rewinds)
    found, whole = (it.get_logits() for it in (generator, begun(model, text + second, longest)))
    assert np.abs(found - whole).max() <= 2e-5, np.abs(found - whole).max()
    counts = {name: drafts[f"draft_tokens_{name}"] for name in ("proposed", "accepted")}
    return {"tokens": text[len(prompt) :], **counts}


def main():
    request = json.load(sys.stdin)
    model = og.Model(request["folder"])
    rest = request["steps"], request["second"], request["rewinds"]
    print(json.dumps([continued(model, prompt, *rest) for prompt in request["prompts"]]))


main()
