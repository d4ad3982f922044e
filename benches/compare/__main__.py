"""Compares gpt-oss-export with `cp` and with other exporters, on a checkpoint of its own.

Makes a random checkpoint of the 20B's dimensions, exports it in every way of
`variants.py`, runs what came of it in onnxruntime, and writes docs/benchmarks.md with
its chart. Needs numpy and onnxruntime; other exporters are used where `--rivals` has
them. For Linux.
"""

import argparse
import datetime
import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import checkpoint
import exports
import machine
import page
import runs
from variants import OURS, RIVALS, WITH_THEM

HOME = Path(__file__).resolve().parents[2]
QUICK = checkpoint.Sizes(
    layers=2,
    vocabulary=320,
    hidden=96,
    inner=128,
    experts=8,
    heads=8,
    kv_heads=2,
    head_dim=32,
    window=8,
)


def main():
    options = arguments()
    if options.redraw:
        page.write(json.loads((options.page / "benchmarks.json").read_text()), options.page)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if options.quick else checkpoint.Sizes(options.layers, options.vocabulary)
    shop = exports.Workshop(options.work, options.binary, options.pairs, 60 * options.patience)
    say("checkpoint")
    checkpoint.write(shop.checkpoint, sizes)
    results = {
        "command": "python3 " + shlex.join(sys.argv),
        "date": datetime.date.today().isoformat(),
        "machine": machine.machine(options.work),
        "load": [os.getloadavg()[0]],
        "versions": versions(options.rivals),
        "sizes": vars(sizes),
        "bytes": (shop.checkpoint / "model.safetensors").stat().st_size,
        **{name: getattr(options, name) for name in ("pairs", "rounds", "patience")},
    }
    results["ours"] = [export(shop, ours, number) for number, ours in enumerate(OURS)]
    results["verify"] = verify(shop, results["ours"][0])
    results["rivals"] = [
        rival for number in range(len(RIVALS)) for rival in convert(shop, number, options)
    ]
    run(results, sizes, options)
    write(results, options)
    if not options.keep:
        shop.clear()


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__)
    parser.add_argument("--binary", type=Path, default=HOME / "target/release/gpt-oss-export")
    parser.add_argument(
        "--rivals",
        type=Path,
        action="append",
        default=[],
        metavar="PYTHON",
        help="a Python that has other exporters; may be given again",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=HOME / "target/compare",
        help="folder for some 45 GB of models, on the disk to measure",
    )
    parser.add_argument(
        "--page", type=Path, default=HOME / "docs", help="folder for benchmarks.md, .svg and .json"
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--pairs", type=int, default=7, help="exports in turn with cp")
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes in which a model's speed is measured"
    )
    parser.add_argument("--patience", type=float, default=60, help="seconds that a prompt may take")
    parser.add_argument("--keep", action="store_true", help="keep checkpoint and models")
    parser.add_argument(
        "--redraw", action="store_true", help="only write the page again from benchmarks.json"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, each thing once: does this script work?"
    )
    options = parser.parse_args()
    if options.quick:
        options.pairs = options.rounds = 1
    return options


def export(shop, ours, number):
    say(ours.name)
    return shop.export(ours, number)


def convert(shop, number, options):
    """A rival's entry, where one of the Pythons has it."""
    rival = RIVALS[number]
    for python in options.rivals:
        if machine.version_in(python, rival.package):
            say(rival.name)
            yield shop.convert(rival, number, python.absolute())
            return


def verify(shop, reference):
    """Whether the reference computes what the checkpoint says."""
    say("verify")
    library = find_spec("onnxruntime").submodule_search_locations[0]
    done = shop.verify(reference["model"], library)
    if done.failure():
        sys.exit(f"the reference does not pass verify: {done.failure()}")
    report = json.loads(done.output)
    return {"max": report["logits"]["max"], "bound": report["tolerance"]["bound"]}


def run(results, sizes, options):
    """Speeds and errors of everything that runs."""
    entries = [entry for ours, entry in zip(OURS, results["ours"]) if ours.runs] + results["rivals"]
    request = {
        "vocabulary": sizes.vocabulary,
        "kv_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "patience": options.patience,
        "prompts": [4, 8, 16] if options.quick else [16, 128, 512],
        "steps": 8,
    }
    say("logits")
    # Steps begin where the window cuts.
    ids = np.random.default_rng(1).integers(0, sizes.vocabulary, sizes.window + 16)
    runs.errors(entries, request, ids, options.work)
    say("speed")
    runs.speeds(entries, {**request, "steps": 24}, options.rounds)


def versions(pythons):
    ours = {name: machine.own_version(name) for name in ("numpy", "onnxruntime")}
    packages = dict.fromkeys([rival.package for rival in RIVALS] + WITH_THEM)
    theirs = [{name: machine.version_in(python, name) for name in packages} for python in pythons]
    return {"python": sys.version.split()[0], **ours, "rivals": theirs}


def write(results, options):
    """The page and what it is made of, without the paths of this machine."""
    results["load"].append(os.getloadavg()[0])
    for entry in results["ours"] + results["rivals"]:
        entry.pop("model", None)
    text = json.dumps(results, indent=1)
    for folder in (options.work.absolute(), HOME):
        text = text.replace(f"{folder}/", "")
    options.page.mkdir(parents=True, exist_ok=True)
    (options.page / "benchmarks.json").write_text(text + "\n")
    page.write(json.loads(text), options.page)


def say(what):
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
