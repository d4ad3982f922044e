"""Writes the config of a checkpoint in every way that transformers has.

Takes a checkpoint's folder and one to write to, and prints the version of transformers and the
files."""

import json
import sys
from pathlib import Path

import transformers

SET = {"num_labels": 3, "output_hidden_states": True, "attn_implementation": "eager"}


def main():
    source, target = map(Path, sys.argv[1:])
    files = []
    for name, keys in (("plain", {}), ("set", SET)):
        config = transformers.GptOssConfig.from_pretrained(source, **keys)
        folder = target / name
        config.save_pretrained(folder)
        (folder / "dict.json").write_text(json.dumps(config.to_dict()))
        config.to_json_file(folder / "all.json", use_diff=False)
        files += [str(folder / name) for name in ("config.json", "dict.json", "all.json")]
    print(json.dumps({"version": transformers.__version__, "files": files}))


main()
