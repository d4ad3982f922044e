"""Compares gpt-oss-export with `cp` and other exporters on a random checkpoint, and runs the
models in onnxruntime, and the same numbers in llama.cpp. Writes benchmarks.json and the tables of
benchmarks.md. For Linux; needs numpy and onnxruntime."""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import checkpoint
import tables
from exports import LLAMA, OURS, RIVALS
from measure import MEMORY, run_export, watch

HOME = Path(__file__).resolve().parents[2]
ENGINE, LLAMA_ENGINE = (Path(__file__).with_name(name) for name in ("engine.py", "llama.mjs"))


def main():
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__)
    add = parser.add_argument
    add("--binary", type=Path, default=HOME / "target/release/gpt-oss-export")
    add("--rivals", type=Path, metavar="PYTHON", help="a Python with the other exporters")
    add("--llama", type=Path, metavar="DIR", help="a folder where npm installed node-llama-cpp")
    add("--only", default="", metavar="REGEX", help="leave out others, but for the reference")
    add("--full-size", action="store_true", help="the 20B's layers and vocabulary")
    add("--work", type=Path, default=HOME / "target", help="a folder on the disk to measure")
    add("--page", type=Path, default=HOME / "docs", help="the folder of benchmarks.md and .json")
    add("--pairs", type=int, default=7, help="exports of each kind, alternating with cp")
    add("--quick", action="store_true", help="a tiny model and one pair, to test this script")
    add("--render", action="store_true", help="only rewrite the tables, from benchmarks.json")
    options = parser.parse_args()
    if options.llama and not options.rivals:
        parser.error("--llama needs --rivals, whose Python writes the GGUF")
    file = options.page / "benchmarks.json"
    if not options.render:
        options.work.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="compare-", dir=options.work.absolute()) as work:
            text = json.dumps(compare(options, Path(work)), indent=1)
        for folder in (work, HOME):  # no paths of this machine
            text = text.replace(f"{folder}/", "")
        file.write_text(text + "\n")
    tables.write(options.page / "benchmarks.md", json.loads(file.read_text()))


def compare(options, work):
    os.environ["HF_HUB_OFFLINE"] = "1"
    load, pairs = os.getloadavg()[0], 1 if options.quick else options.pairs
    dimensions = checkpoint.FULL_SIZE if options.full_size else checkpoint.DIMENSIONS
    config = checkpoint.write(work / "checkpoint", {} if options.quick else dimensions)
    # The last tokens are beyond the sliding window.
    count = config["sliding_window"] + 16
    np.save(work / "ids.npy", np.random.default_rng(1).integers(0, config["vocab_size"], count))
    request = {"config": config, "prompts": [4, 8, 16] if options.quick else [16, 128, 512]}
    def is_chosen(export):
        return export is OURS[0] or re.search(options.only, export.name)

    ours = [
        measure(export, options.binary, work / f"ours-{number}", request, pairs)
        for number, export in enumerate(filter(is_chosen, OURS))
    ]
    verified = verify(options.binary, work)
    others = (RIVALS if options.rivals else []) + (LLAMA if options.llama else [])
    request["llama"] = options.llama and str(options.llama)
    rivals = [
        measure(export, options.rivals.absolute(), work / f"rival-{number}", request)
        for number, export in enumerate(filter(is_chosen, others))
    ]
    return {
        "command": "python3 " + shlex.join(sys.argv),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpu": dict(re.findall("^(Model name|Flags): *(.*)$", output("lscpu"), re.M)),
            "cores": os.cpu_count(),
            "memory": MEMORY,
            "file_system": output("df", "--output=fstype", work).split()[-1],
            "system": platform.platform(),
        },
        "load": [load, os.getloadavg()[0]],
        "llama": options.llama and llama_version(options.llama),
        "versions": [
            json.loads(output(python, "-m", "pip", "list", "--format=json"))
            for python in (sys.executable, options.rivals)
            if python
        ],
        "sizes": {name: config[name] for name in checkpoint.DIMENSIONS},
        "bytes": (work / "checkpoint/model.safetensors").stat().st_size,
        "pairs": pairs,
        "ours": ours,
        "verify": verified,
        "rivals": rivals,
    }


def measure(export, program, folder, request, pairs=1):
    """Exports, runs the model, and deletes it; a model in place stays."""
    print(export.name, file=sys.stderr)
    entry = run_export(export, program, folder, pairs)
    model = entry.pop("model", None)
    if model and export.runs:
        request = {**request, "model": model}
        entry["error"] = error(request, folder.parent)
        # The model's files are in the page cache now.
        entry["run"] = ask_engine(request)
    shutil.rmtree(folder)
    return entry


def ask_engine(request):
    """What the engine prints, with its peaks of memory, or why it failed."""
    engine = [sys.executable, ENGINE]
    if request["model"].endswith(".gguf"):
        engine = ["node", LLAMA_ENGINE, request["llama"]]
    run = watch([*engine, json.dumps(request)])
    if run.failure:
        return {"failure": run.failure}
    return {**json.loads(run.output), "own": run.own, "peak": run.resident}


def error(request, work):
    """How far the logits are from those of the first model: the largest difference, the mean
    Kullback-Leibler divergence in nats, and how often the top token agrees."""
    found, reference = work / "logits.npy", work / "reference.npy"
    answer = ask_engine({**request, "ids": f"{work}/ids.npy", "logits": str(found)})
    if "failure" in answer:
        return answer
    if not reference.exists():
        shutil.copy(found, reference)
    logits = np.load(found).astype(np.float64)
    expected = np.load(reference).astype(np.float64)[-len(logits) :]
    log_p, log_q = (x - np.logaddexp.reduce(x, -1, keepdims=True) for x in (expected, logits))
    return {
        "max": np.abs(expected - logits).max(),
        "kl": (np.exp(log_p) * (log_p - log_q)).sum(-1).mean(),
        "same_top": (expected.argmax(-1) == logits.argmax(-1)).mean(),
        "places": len(logits),
        "largest": np.abs(expected).max(),
    }


def verify(binary, work):
    """Compares the reference model with the checkpoint."""
    library = find_spec("onnxruntime").submodule_search_locations[0]
    model = [work / "ours-0.onnx", "--checkpoint", work / "checkpoint"]
    run = watch([binary, "verify", *model, "--onnxruntime", library, "--json"])
    if run.failure:
        sys.exit(f"the reference does not pass verify: {run.failure}")
    report = json.loads(run.output)
    return {"max": report["logits"]["max"], "bound": report["tolerance"]["bound"]}


def llama_version(folder):
    package = folder / "node_modules/node-llama-cpp/package.json"
    return json.loads(package.read_text())["version"]


def output(*command):
    return subprocess.check_output(command, text=True)


if __name__ == "__main__":
    main()
