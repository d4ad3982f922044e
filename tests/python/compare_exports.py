"""Compares the exports of two versions of the program.

OLD and NEW are binaries. Each case is a checkpoint and some command lines, which both binaries
run in folders of their own. They must end with the same status and write the same files.
Graphs are compared field by field, without their metadata; all other files byte for byte; the
numbers of `verify` bit for bit. Differences in summaries and metadata are listed apart, since
they may be deliberate. The exit status is 1 if there are others.

The Python that runs this needs `tests/python/requirements.txt`; TMPDIR=/dev/shm is faster."""

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

import differences
import layouts
from differences import Difference

FORMATS = ["", "mxfp4", "int8", "int4", "bf16", "f16", "f32"]
FIRST = ["tiny", "tiny-hf", *(f"tiny-hf-{layout}" for layout in layouts.LAYOUTS)]
SECOND = ["tiny-128", *(f"tiny-128-{layout}" for layout in layouts.LAYOUTS)]
ODD = ["tiny-1-kv", "tiny-3-heads"]
BLURRED = ["blurred-bf16", "blurred-f32", "blurred-split", "dense-f32", "dense-f16"]
VARIANTS = ["shards", "bare-names", "tied", "pruned", "pruned-bf16", "narrow", "unscaled", "transformers-5"]
TEXT = ["text", "text-128", "text-above"]
CUDA, WEBGPU = "--target ort --ep cuda", "--target ort --ep webgpu"
ONNXRUNTIME = Path(importlib.util.find_spec("onnxruntime").origin).parent
MOST_LINES, TIMEOUT = 60, 120


class Case(NamedTuple):
    group: str
    source: str
    commands: tuple

    def __str__(self):
        return f"{self.group} {self.source}: {' && '.join(self.commands)}"


class Outcome(NamedTuple):
    case: Case
    refused: int
    differences: list


def from_checkpoint(options, output="model.onnx"):
    """The model lies above the checkpoint, where it can read the weights in place."""
    return f"--checkpoint checkpoint --output {output} {options}"


def with_formats(experts, dense):
    options = [f"--experts {experts}" if experts else "", f"--dense {dense}" if dense else ""]
    return " ".join([*options, "--accept-rounding"]) if experts or dense else ""


def walk():
    """The cases of tests/suite/combinations.rs."""
    graphs = [
        "--target onnx", "--target onnx --kv-cache", "--target onnx --ep webgpu", "--target ort",
        "--target ort --keep-activations", CUDA, WEBGPU,
    ]  # fmt: skip
    for graph, experts, dense, compute in product(graphs, FORMATS, FORMATS, ["f32", "f16", "bf16"]):
        options = f"{graph} {with_formats(experts, dense)} --compute {compute}"
        yield "tiny-128", [from_checkpoint(options, "out/model.onnx")]


def graphs():
    """Every form of the graph of every layout."""
    forms = [
        "", "--last-logits", "--batch-size 2 --seq-len 7", "--layers 1",
        "--batch-size 2 --seq-len 7 --dynamic-b", "--batch-size 2 --seq-len 7 --dynamic-seq",
    ]  # fmt: skip
    full = "--sliding-cache full"
    targets = ["", "--kv-cache", f"--kv-cache {full}", "--target ort", f"--target ort {full}"]
    for source, target, style, form in product(FIRST + ODD + VARIANTS, targets, ["", "--functions"], forms):
        yield source, [from_checkpoint(f"{target} {style} {form}")]
    for accepted in ["", "--ignore-config-key extra_key", "--ignore-config-key extra_key --ignore-tensor extra.*"]:
        yield "unknown", [from_checkpoint(accepted)]


def places():
    """Weights in place, copied, in several files, and found in a second run."""
    wheres = ["--external-data in-place", "--external-data copy", "--max-shard-size 450kB", "--max-shard-size 1MiB"]
    converted = ["", with_formats("mxfp4", ""), with_formats("", "int8")]
    sources = FIRST + BLURRED + VARIANTS
    for source, where, options, target in product(sources, wheres, converted, ["", "--target ort"]):
        yield source, [from_checkpoint(f"{target} {where} {options}")]
    for source in sources:
        yield source, [from_checkpoint("", "out/model.onnx")]
        yield source, [from_checkpoint("--external-data in-place", "out/model.onnx")]
        flat, other = (from_checkpoint(options, "out/a.onnx") for options in ["", with_formats("f32", "")])
        yield source, [flat, flat, from_checkpoint("--target ort", "out/b.onnx"), other]


def formats():
    """Every format of every layout, with rounding accepted or not."""
    pairs = [(experts, "") for experts in FORMATS[1:]] + [("", dense) for dense in FORMATS[2:]]
    pairs += [("int4", "int8"), ("mxfp4", "int4"), ("f16", "f16")]
    graphs = ["--target onnx", "--target ort", f"{CUDA} --compute f16", WEBGPU]
    for source, graph, pair in product(FIRST + SECOND + ODD + BLURRED + ["pruned-bf16"], graphs, pairs):
        yield source, [from_checkpoint(f"{graph} {with_formats(*pair)}")]
    for source, option, form in product(FIRST + BLURRED, ["--experts", "--dense"], FORMATS[1:]):
        yield source, [from_checkpoint(f"--target ort {option} {form}")]
    for source, compute in product(SECOND + ["pruned"], ["f16", "bf16"]):
        yield source, [from_checkpoint(f"{CUDA} --compute {compute}")]


def stages():
    """Weights staged in every format, and models and other stages made of them."""
    options = ["", "--layers 1", f"{CUDA} --compute f16"]
    options += [with_formats(experts, "") for experts in FORMATS[1:]]
    options += [with_formats("", "int4"), with_formats("", "f16"), with_formats("int8", "int8")]
    staged = "--weights stage/w.safetensors"
    sources = FIRST + ["tiny-128", "tiny-128-bf16", "tiny-3-heads", "blurred-f32", "dense-f32", "pruned", "tied"]
    for source, option in product(sources, options):
        yield source, [
            f"--checkpoint checkpoint --save-weights stage/w.safetensors --skip-onnx {option}",
            f"--checkpoint checkpoint --save-weights one/w.safetensors --output one/model.onnx {option}",
            f"{staged} --output stage/model.onnx",
            f"{staged} --output ort/model.onnx --target ort",
            f"{staged} --output cuda/model.onnx {CUDA} --compute f16",
            f"{staged} --output int4/model.onnx {with_formats('int4', 'int8')}",
            f"{staged} --output bf16/model.onnx --functions {with_formats('bf16', '')}",
            f"{staged} --output shards/model.onnx --max-shard-size 450kB --target ort",
            f"{staged} --save-weights again/w.safetensors --skip-onnx {with_formats('mxfp4', 'f16')}",
            "--weights again/w.safetensors --output again/model.onnx --layers 1 --kv-cache --last-logits",
            "inspect stage/w.safetensors --tensors *",
        ]


def parts():
    """Models as several graphs, and parts of models."""
    cuts = [
        "--stages 2", "--stages 3", "--stages 0..1,1..3 --external-data copy", "--layers 1..2",
        "--stages 3 --only-stage 2", "--stages 2 --experts int4", "--layers 2 --stages 2",
    ]  # fmt: skip
    for source, target, cut in product([*FIRST, "tied"], ["", "--kv-cache", "--target ort"], cuts):
        yield source, [from_checkpoint(f"{target} {cut}")]


def folders():
    """Folders for onnxruntime-genai and transformers.js."""
    web = ["--target onnx", f"{WEBGPU} --experts int4 --dense int4"]
    targets = [*web, "--target ort", "--target ort --functions --experts bf16", f"{CUDA} --compute bf16"]
    extras = ["", "--batch-size 1", "--layers 1", "--max-shard-size 450kB"]
    for source, target, extra in product(TEXT, targets, [*extras, "--max-length 64"]):
        checkpoint = "checkpoint/original" if source == "text-above" else "checkpoint"
        for output in ["model.onnx", "out/model.onnx", "checkpoint/model.onnx"]:
            yield source, [f"--checkpoint {checkpoint} --output {output} --genai {target} {extra}"]
    for source, target, extra in product(["tiny-hf", *TEXT[:2]], web, extras):
        for output in ["out/onnx/model.onnx", "out/onnx/model_q4f16.onnx"]:
            yield source, [from_checkpoint(f"--transformers-js {target} {extra}", output)]
    # The tokenizer is looked for beside staged weights.
    staged = "--weights checkpoint/w.safetensors"
    for source, target in product(TEXT[:2], targets):
        yield source, [
            "--checkpoint checkpoint --save-weights checkpoint/w.safetensors --skip-onnx",
            f"{staged} --output checkpoint/model.onnx --genai {target}",
            f"{staged} --output out/model.onnx --genai {target}",
            f"{staged} --output web/onnx/model.onnx --transformers-js {target}",
        ]
    for source, option in product(["tiny", "tiny-hf"], ["--genai", "--transformers-js"]):
        yield source, [from_checkpoint(option, "out/model.onnx")]


def sizes():
    """Graphs with the released models' sizes."""
    targets = ["", "--kv-cache", "--functions", "--target ort", "--target ort --genai", "--layers 3 --last-logits"]
    for source, target in product(["sparse-24-32", "sparse-36-128"], targets):
        yield source, [from_checkpoint(f"--external-data in-place {target}"), "inspect model.onnx"]


def verified():
    """Numbers of `verify`, and what `inspect` says."""
    kinds = [
        ("tiny", "", ""), ("tiny", "--functions", "--trace"), ("tiny", "--kv-cache", "--batch 3 --tokens 30"),
        ("tiny", "--target ort", "--trace"), ("tiny", "--target ort", "--batch 3 --decode 10"),
        ("tiny", "--kv-cache --last-logits", ""), ("tiny", "--batch-size 2 --seq-len 12", ""),
        ("tiny", "--layers 2 --target ort", "--seed 7"), ("tiny-3-heads", "--target ort", "--batch 2"),
        ("tiny-1-kv", "--kv-cache", "--batch 2"), ("tiny-128", "--experts int4 --dense int4", ""),
        ("tiny-128", "--experts int8 --dense int8 --kv-cache", ""),
        ("tiny-128", "--experts int4 --dense int8 --target ort --keep-activations", "--trace"),
        ("tiny-128", "--experts int8 --dense int8 --target ort", "--tolerance 10"),
        ("tiny-128", "--target ort --compute f16", "--tolerance 10"),
        ("tiny-128", "--experts int4 --dense int4", "--tolerance 0.001"),
        ("blurred-f32", "--experts mxfp4 --accept-rounding", ""), ("tied", "--target ort", ""),
        ("blurred-bf16", "--experts f16 --dense f16 --accept-rounding --kv-cache", ""),
        ("pruned", "--target ort", ""), ("narrow", "", ""), ("unscaled", "--target ort", ""), ("dense-f32", "", ""),
        ("tiny-128", f"{WEBGPU} --experts int4", ""), ("tiny-128", "--target ort --dense int8", ""),
    ]  # fmt: skip
    kinds += [(source, target, "") for source, target in product(FIRST[1:], ["--kv-cache", "--target ort"])]
    kinds += [(source, "--target ort --experts mxfp4", "") for source in FIRST[2:]]
    for source, options, texts in kinds:
        export = from_checkpoint(options)
        yield source, [export, f"verify model.onnx --checkpoint checkpoint {texts}", "inspect model.onnx"]
    for source in FIRST:
        stage = "--checkpoint checkpoint --save-weights w.safetensors --output model.onnx --verify"
        yield source, [stage, "verify model.onnx --checkpoint w.safetensors", "inspect checkpoint --scan"]


def all_cases():
    for group in [walk, graphs, places, formats, stages, parts, folders, sizes, verified]:
        for source, commands in group():
            yield Case(group.__name__, source, tuple(" ".join(command.split()) for command in commands))


def prepare(case, sources, home):
    home.mkdir()
    if case.source.startswith("sparse-"):
        layouts.write_sparse(home / "checkpoint", *map(int, case.source.split("-")[1:]))
    else:
        shutil.copytree(sources / case.source, home / "checkpoint")


def run(binary, command, home):
    """The exit status of a command line, and the JSON that it prints."""
    arguments = [binary, *command.split(), "--json"]
    if "verify" in command:
        arguments += ["--onnxruntime", str(ONNXRUNTIME)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ORT_"))}
    try:
        ended = subprocess.run(arguments, cwd=home, env=environment, capture_output=True, timeout=TIMEOUT)
        return ended.returncode, json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        return f"none after {TIMEOUT} s", None
    except ValueError:
        return ended.returncode, None


def compare(case, binaries, sources):
    """Runs a case with both binaries."""
    found, refused = [], 0
    with tempfile.TemporaryDirectory(dir=sources.parent) as folder:
        homes = [Path(folder, side) for side in ("old", "new")]
        for home in homes:
            prepare(case, sources, home)
        before = [differences.snapshot(home) for home in homes]
        for command in case.commands:
            (old, one), (new, other) = (run(*pair) for pair in zip(binaries, [command] * 2, homes))
            name = "export" if command.startswith("--") else command.split()[0]
            refused += old != 0 and new != 0
            if old != new:
                found.append(Difference("status", name, f"{old} -> {new}"))
            found += differences.in_reports(name, one, other)
        found += differences.in_files(homes, before)
    return Outcome(case, refused, found)


def print_table(outcomes):
    groups = dict.fromkeys(outcome.case.group for outcome in outcomes)
    print(f"{'':10}{'cases':>8}{'commands':>10}{'refused':>9}")
    for group in [*groups, "all"]:
        rows = [outcome for outcome in outcomes if group in (outcome.case.group, "all")]
        commands, refused = sum(len(row.case.commands) for row in rows), sum(row.refused for row in rows)
        print(f"{group:10}{len(rows):8}{commands:10}{refused:9}")


def print_differences(title, outcomes, are_notes):
    """A line for each kind and place, with the number of cases and the first. Returns how many."""
    found = defaultdict(list)
    for outcome in outcomes:
        for difference in outcome.differences:
            if (difference.kind in differences.NOTES) == are_notes:
                place = re.sub(r"weights-[0-9a-f]+|\d+", "N", difference.where)
                found[difference.kind, place].append((difference, outcome.case))
    print(f"{title}: {len(found) or 'none'}")
    for (kind, _), places in sorted(found.items())[:MOST_LINES]:
        difference, case = places[0]
        cases = len({case for _, case in places})
        example = f"{difference.file + ' of ' if difference.file else ''}{case}"
        print(f"  {kind:9}{difference.where}: {difference.change} [{cases} cases: {example[:110]}]")
    if len(found) > MOST_LINES:
        print(f"  … and {len(found) - MOST_LINES} more")
    return len(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["OLD", "NEW"]:
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose line has this regular expression")
    arguments = parser.parse_args()
    cases = [case for case in all_cases() if re.search(arguments.only, str(case))]
    if not cases:
        parser.error(f"no case fits {arguments.only}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, multiprocessing.Pool() as pool:
        sources = Path(folder, "sources")
        layouts.write_all(sources)
        jobs = [pool.apply_async(compare, (case, [arguments.OLD, arguments.NEW], sources)) for case in cases]
        outcomes = [job.get() for job in jobs]
    print_table(outcomes)
    print(f"with each binary, in {time.monotonic() - began:.0f} s")
    print_differences("differences in summaries and metadata", outcomes, True)
    sys.exit(1 if print_differences("differences", outcomes, False) else 0)


if __name__ == "__main__":
    main()
