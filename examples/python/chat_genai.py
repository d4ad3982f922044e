"""A chat with an exported model in onnxruntime-genai, by the likeliest tokens.

    pip install onnxruntime-genai
    python chat_genai.py FOLDER

FOLDER is one of `--for genai`. Each line of the input is a message, and its end ends the chat."""

import argparse
import json
import sys
from os.path import commonprefix

import onnxruntime_genai as og


class Chat:
    """A conversation, and the generator that has read it."""

    def __init__(self, folder):
        self.model, self.messages = og.Model(folder), []
        self.tokenizer = og.Tokenizer(self.model)
        self.tokenizer.update_options(skip_special_tokens="false")
        self.generator = self.begun()

    def begun(self):
        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(do_sample=False)
        return og.Generator(self.model, parameters)

    def keep(self, tokens):
        """Takes back what the generator has beyond the start of these tokens, and returns how many stay."""
        read = self.generator.get_sequence(0).tolist()
        kept = len(commonprefix([read, tokens]))
        try:
            if kept < len(read):
                self.generator.rewind_to(kept)
            elif read and not self.generator.is_done():
                self.generator.get_logits()  # Computes the last token, which append_tokens would skip.
            return kept
        except RuntimeError:  # Caches of sliding layers have dropped what comes before.
            del self.generator  # Its caches are freed before others are allocated.
            self.generator = self.begun()
            return 0

    def reply(self, message, limit):
        """Streams the reply to a message as texts of whole characters."""
        self.messages.append({"role": "user", "content": message})
        text = self.tokenizer.apply_chat_template(messages=json.dumps(self.messages), add_generation_prompt=True)
        prompt = self.tokenizer.encode(text).tolist()
        kept, reply, stream = self.keep(prompt), [], self.tokenizer.create_stream()
        print(f"[prompt of {len(prompt)} tokens, {kept} of them in caches]", file=sys.stderr)
        self.generator.append_tokens(prompt[kept:])
        while len(reply) < limit and not self.generator.is_done():
            self.generator.generate_next_token()
            token = self.generator.get_next_tokens()[0]
            if token not in self.tokenizer.eos_token_ids:
                reply.append(token)
                yield stream.decode(token)
        # Of a reply in harmony's channels the template wants the last one.
        content = self.tokenizer.decode(reply).split("<|message|>")[-1]
        self.messages.append({"role": "assistant", "content": content})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--max-new-tokens", type=int, default=2048, help="of a reply")
    request = parser.parse_args()
    chat = Chat(request.folder)
    for line in sys.stdin:
        for text in chat.reply(line.rstrip("\n"), request.max_new_tokens):
            print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
