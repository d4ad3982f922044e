"""Writes docs/benchmarks.md and its chart from what was measured."""

from pathlib import Path

from chart import chart
from variants import RIVALS
from words import (
    NOTHING,
    bytes_,
    mebibytes,
    paragraph,
    ratio,
    scientific,
    seconds,
    table,
)

RIVALS_MADE_WITH = [
    "python3 -m venv target/rivals/one",
    "target/rivals/one/bin/pip install onnxruntime-genai mobius-onnx torch transformers accelerate \\",
    "    onnxruntime onnx-ir",
    "python3 -m venv target/rivals/two",
    "target/rivals/two/bin/pip install optimum-onnx onnxruntime accelerate",
]


def write(results, folder: Path):
    (folder / "benchmarks.md").write_text("\n".join(page(results)) + "\n")
    (folder / "benchmarks.svg").write_text(drawing(results))


def page(results):
    yield from ["# Benchmarks", "", *introduction(results), ""]
    yield from ["![Export time, time for a token and error of every model](benchmarks.svg)", ""]
    yield from ["## Exporting", "", *exporting(results), ""]
    yield from ["## Running", "", *running(results), ""]
    yield from ["## How far from the checkpoint's numbers", "", *errors(results), ""]
    yield from ["## What failed", "", *(list(failures(results)) or ["Nothing."]), ""]
    yield from ["## How it was measured", "", *method(results)]


def everything(results):
    return results["ours"] + results["rivals"]


def introduction(results):
    machine, sizes = results["machine"], results["sizes"]
    instructions = ", ".join(machine["with"] + [f"no {name}" for name in machine["without"]])
    yield from paragraph(f"""
        `gpt-oss-export`, `cp` and other exporters on one random checkpoint of
        {bytes_(results["bytes"])}: {sizes["layers"]} layers of width {sizes["hidden"]:,},
        {sizes["experts"]} experts in MXFP4, a vocabulary of {sizes["vocabulary"]:,}.
        {results["date"]}; {machine["cores"]} cores ({machine["cpu"]}, {instructions}),
        {machine["memory"] / 2**30:.0f} GiB, {machine["file_system"]}, {machine["system"]};
        onnxruntime {results["versions"]["onnxruntime"]} on the CPU. This page was written by""")
    yield from ["", "```text", results["command"], "```"]
    if "AVX-512" in machine["without"]:
        yield ""
        yield from paragraph("""
            Without AVX-512 onnxruntime's kernel for experts in MXFP4, which `--target ort`
            uses, is [many times slower](targets.md#limits) than with it.""")


def exporting(results):
    copied = next((entry["seconds"] for entry in results["ours"] if entry.get("copy")), None)
    headings = [
        "export",
        "÷ `cp && sync`",
        "`cp && sync`",
        "÷ ours, copied",
        "time",
        "own memory",
        "peak RSS",
        "model",
        "written",
    ]
    yield from table(
        headings,
        (
            [
                entry["name"],
                ratio(entry["seconds"], entry["copy"]),
                seconds(entry["copy"]),
                ratio(entry["seconds"], copied),
                seconds(entry["seconds"]),
                mebibytes(entry["own"]),
                mebibytes(entry["resident"]),
                bytes_(entry["size"]),
                bytes_(entry["written"]),
            ]
            for entry in everything(results)
            if "size" in entry
        ),
    )
    yield ""
    yield from paragraph(f"""
        Ours are medians of {results["pairs"]} exports in turn with `cp` of what they wrote, so
        that a ratio is of minutes in which the disk was equally fast, and the highest memory
        of all. Rivals exported once, and were copied once. An export in
        place writes the graph alone. *Own memory* is RssAnon, mapped files not counted;
        *written* is what the file system was given, so what is written and read again
        counts twice.""")


def running(results):
    ran = [entry for entry in everything(results) if "load" in entry.get("run", {})]
    base = next((entry for entry in ran if entry["run"]["step"]), None)
    if base is None:
        return
    # The first prompt warms up, and tells the pace.
    lengths = list(base["run"]["prompts"])[1:]
    headings = ["model", "token: times faster", f"prompt of {lengths[-1]}: times faster", "a token"]
    headings += [f"prompt of {count}" for count in lengths] + [
        "load",
        "RSS then",
        "own memory",
        "peak RSS",
    ]
    yield from table(
        headings,
        (running_row(entry["name"], entry["run"], base["run"], lengths, results) for entry in ran),
    )
    yield ""
    yield from paragraph(f"""
        *Times faster* than {base["name"]}. {processes(results["rounds"])}, all models in turn;
        a token is the median of 24 steps with a cache; a prompt is the faster of two runs, all
        its logits computed. *Over {results["patience"]:.0f} s*: at the pace of the
        shorter prompt before it would take longer, and was not run. Files were in memory
        before loading where they fit; RSS counts the pages of them that are mapped, and some 60 MB of
        Python.""")


def processes(rounds):
    return "One process each" if rounds == 1 else f"Medians of {rounds} processes each"


def running_row(name, run, base, lengths, results):
    limit = f"over {results['patience']:.0f} s"
    prompts = [run["prompts"][count] for count in lengths]
    shown = [
        seconds(value) if value else NOTHING if "refused" in run else limit for value in prompts
    ]
    faster = (
        ratio(base["prompts"][lengths[-1]], prompts[-1])
        if base["prompts"][lengths[-1]]
        else NOTHING
    )
    return [
        name,
        ratio(base["step"], run["step"]),
        faster,
        seconds(run["step"]),
        *shown,
        seconds(run["load"]),
        mebibytes(run["resident"]),
        mebibytes(run["own"]),
        mebibytes(run["peak"]),
    ]


def errors(results):
    found = [
        (entry["name"], entry["error"])
        for entry in everything(results)
        if "max" in entry.get("error", {})
    ]
    headings = ["model", "largest error of a logit", "mean KL divergence", "same largest logit"]
    yield from table(
        headings,
        (
            [name, scientific(error["max"]), scientific(error["kl"]), f"{error['same_top']:.1%}"]
            for name, error in found
        ),
    )
    verify, error = results["verify"], found[0][1]
    yield ""
    yield from paragraph(f"""
        Against {found[0][0]}, which `verify` held to a forward pass over the
        checkpoint's own numbers in this run: largest error {scientific(verify["max"])}, allowed
        {scientific(verify["bound"])}. {error["places"]} random tokens, the last 8 one by one
        where there is a cache; logits up to {error["largest"]:.1f}; KL in nats. Weights are random,
        so routers are often undecided and rounding sends some tokens to other experts: these
        errors say which model is nearer, not how good its text would be.""")


def failures(results):
    """A line for each that failed somewhere, with its own last words."""
    for entry in everything(results):
        run, error = entry.get("run", {}), entry.get("error", {})
        stages = {
            entry.get("failure"): "exporting",
            error.get("failure"): "comparing",
            run.get("failure") or run.get("refused"): "running",
        }
        for words, stage in stages.items():
            if words:
                yield f"- {entry['name']}, {stage}: {shortened(words)}"


def shortened(words, most=320):
    """Beginning and end of what may be long."""
    words = words.replace("`", "'")
    half = most // 2
    return f"`{words if len(words) <= most else words[:half] + ' … ' + words[-half:]}`"


def method(results):
    for point in (
        """The checkpoint has Hugging Face's layout, Gaussian dense weights in BF16 and experts
        that are quantised Gaussian blocks; the same numbers in every run
        ([the script](../benches/compare)).""",
        """A time ends when `sync` has returned, `cp`'s too; one in place, when the process has
        ended.""",
        f"""The machine's load average was {results["load"][0]:.1f} at the start and
        {results["load"][1]:.1f} at the end, of which up to {results["machine"]["cores"]} are the
        run's own; other work makes times longer, and their ratios less sure.""",
        """Memory is sampled every 2 ms, after 2 s every thousandth of the time. A process may
        take nine tenths of the machine's; beyond that allocations fail.""",
        "Rivals got the checkpoint as it is, no network, and these versions:",
    ):
        yield from paragraph(point, "- ", "  ")
    for packages in results["versions"]["rivals"]:
        versions = (f"{name} {version}" for name, version in packages.items() if version)
        yield from paragraph(", ".join(versions), "  - ", "    ")
    measured = {entry["name"] for entry in results["rivals"]}
    absent = [rival.name for rival in RIVALS if rival.name not in measured]
    if absent:
        yield from paragraph(f"Not measured: {'; '.join(absent)}.", "- ", "  ")

    yield from ["", "The rivals' Pythons are made with", "", "```text", *RIVALS_MADE_WITH, "```"]


def drawing(results):
    """A row for each model, and the figures that tell most."""
    kinds = {"ours": results["ours"], "rival": results["rivals"]}
    rows = [
        (entry["name"].replace("`", ""), kind, cells(entry))
        for kind, entries in kinds.items()
        for entry in entries
    ]
    panels = [
        ("Export", "seconds"),
        ("A token", "seconds, with a cache"),
        ("Largest error", "of a logit"),
    ]
    return chart("gpt-oss-export and other exporters", panels, rows)


def cells(entry):
    run, error = entry.get("run", {}), entry.get("error", {})
    export = entry["seconds"] if "size" in entry else None
    return [
        (export, seconds(export) if export else "fails"),
        (run.get("step"), "fails" if "failure" in run else seconds(run.get("step"))),
        (error.get("max"), scientific(error["max"]) if error.get("max") else ""),
    ]
