"""Writes the tables of docs/benchmarks.md, each between two markers."""

import sys
from pathlib import Path


def write(page: Path, results):
    text = page.read_text()
    for make in (exporting, running, accuracy, failures):
        before, begin, rest = text.partition(f"<!-- {make.__name__} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            sys.exit(f"{page}: no <!-- {make.__name__} --> with <!-- end --> below it")
        headings, *rows = make(results["ours"] + results["rivals"])
        alignment = "---" if make is failures else "---:"
        lines = [headings, ["---"] + [alignment] * (len(headings) - 1), *rows]
        table = "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)
        text = before + begin + table + end + after
    page.write_text(text)


def cell(value):
    """Numbers with three digits, or all before the point."""
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value, other):
    return value / other if value and other else None


def exporting(entries):
    yield [
        *("export", "÷ `cp && sync`", "÷ ours, copied", "time (s)", "`cp && sync` (s)"),
        *("own memory (MiB)", "peak RSS (MiB)", "model (MB)", "written (MB)"),
    ]
    exported = [entry for entry in entries if "size" in entry]
    copied = next((entry["seconds"] for entry in exported if entry["copy"]), None)
    for entry in exported:
        seconds, copy = entry["seconds"], entry["copy"]
        memory = [entry[name] / 2**20 for name in ("own", "resident")]
        sizes = [entry[name] / 1e6 for name in ("size", "written")]
        ratios = ratio(seconds, copy), ratio(seconds, copied)
        yield [entry["name"], *ratios, seconds, copy, *memory, *sizes]


def running(entries):
    runs = [(entry["name"], entry["run"]) for entry in entries if "load" in entry.get("run", {})]
    base = next(run for _, run in runs if run["step"])
    # The shortest prompt only warms up and shows the pace.
    _, *counts = base["prompts"]
    yield [
        *("model", "token: times faster", f"prompt of {counts[-1]}: times faster", "token (ms)"),
        *(f"prompt of {count} (s)" for count in counts),
        *("load (s)", "RSS then (MiB)", "own memory (MiB)", "peak RSS (MiB)"),
    ]
    for name, run in runs:
        prompts = [run["prompts"][count] for count in counts]
        faster = ratio(base["step"], run["step"]), ratio(base["prompts"][counts[-1]], prompts[-1])
        if "refused" not in run:
            prompts = [seconds or "over 60" for seconds in prompts]
        step = run["step"] and run["step"] * 1000
        memory = [run[name] / 2**20 for name in ("resident", "own", "peak")]
        yield [name, *faster, step, *prompts, run["load"], *memory]


def accuracy(entries):
    yield ["model", "largest error of a logit", "mean KL divergence", "same top token"]
    for entry in entries:
        if "max" in (error := entry.get("error", {})):
            yield [entry["name"], error["max"], error["kl"], f"{error['same_top']:.1%}"]


def failures(entries):
    yield ["model", "step", "error"]
    for entry in entries:
        run, error = entry.get("run", {}), entry.get("error", {})
        messages = {
            entry.get("failure"): "export",
            error.get("failure"): "accuracy",
            run.get("failure") or run.get("refused"): "speed",
        }
        for message, step in messages.items():
            if message:
                message = " ".join(message.split()).replace("`", "'").replace("|", "\\|")
                yield [entry["name"], step, f"`{message}`"]
