"""Differences between the results of two runs: files that were written, and JSON that was
printed."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError

# What two versions must agree on, in the report of `verify`.
VERIFIED = ["passed", "identity", "texts", "experts", "logits", "tolerance.bound", "ties", "trace"]
# What they should agree on, in the summary of an export.
SUMMARY = [
    "layout", "layers", "layers_there", "fingerprint", "model.ir_version", "model.opset", "model.nodes",
    "model.functions", "model.inputs", "model.outputs", "experts.origin", "experts.format", "experts.counts",
    "experts.numbers", "experts.bytes", "experts.rounded", "experts.relative_error", "experts.converted",
    "dense.origin", "dense.format", "dense.numbers", "dense.bytes", "dense.rounded", "dense.relative_error",
    "dense.converted", "weights.in_place", "weights.files", "weights.written", "weights.reused",
    "weights.bytes_referenced", "weights.bytes_written", "genai", "transformers_js",
]  # fmt: skip
# What differs from run to run.
VOLATILE = {"seconds", "peak_rss"}
# Kinds that may be deliberate: they are reported, and are no failure.
NOTES = {"summary", "metadata"}
MOST_PER_FILE = 6
SHOWN = 60


class Difference(NamedTuple):
    kind: str
    where: str
    change: str
    file: str = ""


def changed(old, new):
    """Both values, or of long ones what is around the first difference."""
    texts = [value if isinstance(value, str) else json.dumps(value, default=repr) for value in (old, new)]
    if max(map(len, texts)) > SHOWN:
        start = max(len(os.path.commonprefix(texts)) - SHOWN // 2, 0)
        texts = [f"…{text[start:][:SHOWN]}…" for text in texts]
    return " -> ".join(texts)


def only(side, what="has it"):
    return f"only {('OLD', 'NEW')[side]} {what}"


def flatten(value, prefix=""):
    """The leaves of a JSON object under their dotted keys; a list is a leaf."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    leaves = {}
    for key, entry in value.items():
        if key not in VOLATILE:
            leaves |= flatten(entry, f"{prefix}.{key}" if prefix else key)
    return leaves


def pick(report, key):
    for part in key.split("."):
        report = report.get(part, "absent") if isinstance(report, dict) else "absent"
    return report


def in_reports(command, old, new):
    """Differences between the JSON objects that a command printed."""
    if old is None or new is None:
        if old is not new:
            yield Difference("output", command, only(old is None, "prints JSON"))
        return
    reports = (old, new) if command == "verify" else (old.get("verification"), new.get("verification"))
    for key in VERIFIED:
        one, other = (pick(report, key) for report in reports)
        if one != other:
            yield Difference("verify", key, changed(one, other))
    leaves = flatten(old), flatten(new)
    for key in sorted(leaves[0].keys() ^ leaves[1].keys()):
        yield Difference("summary", f"{command} {key}", only(key in leaves[1]))
    for key in SUMMARY if command == "export" else sorted(leaves[0].keys() & leaves[1].keys()):
        one, other = pick(old, key), pick(new, key)
        is_listed = command == "verify" and key.startswith(tuple(VERIFIED))
        if one != other and not is_listed:
            yield Difference("summary", f"{command} {key}", changed(one, other))


def labels(messages):
    """Names of the messages of a list, where each has its own, otherwise their numbers."""
    for field in ("name", "key", "domain"):
        names = [getattr(message, field, "") for message in messages]
        if len(set(names)) == len(names):
            return names
    return list(range(len(messages)))


def in_lists(old, new, path):
    olds, news = (dict(zip(labels(messages), messages)) for messages in (old, new))
    for side, one, other in [(0, olds, news), (1, news, olds)]:
        if lone := [str(label) for label in one if label not in other]:
            yield path, only(side, f"has {', '.join(lone[:3])} ({len(lone)} in all)")
    both = [label for label in olds if label in news]
    if both != [label for label in news if label in olds]:
        yield path, "in another order"
    for label in both:
        yield from in_messages(olds[label], news[label], f"{path}[{label}]")


def in_messages(old, new, path=""):
    """Places where two messages of protobuf differ, field by field."""
    if old == new:
        return
    for field in old.DESCRIPTOR.fields:
        one, other = getattr(old, field.name), getattr(new, field.name)
        where = f"{path}.{field.name}".lstrip(".")
        if field.is_repeated and field.message_type:
            yield from in_lists(one, other, where)
        elif field.is_repeated:
            if list(one) != list(other):
                yield where, changed(list(one), list(other))
        elif old.HasField(field.name) != new.HasField(field.name):
            yield where, only(new.HasField(field.name))
        elif field.message_type:
            yield from in_messages(one, other, where)
        elif one != other:
            yield where, changed(one, other)


def in_models(old, new):
    """Differences between two models, metadata apart."""
    models = [onnx.ModelProto.FromString(raw) for raw in (old, new)]
    olds, news = ({entry.key: entry.value for entry in model.metadata_props} for model in models)
    for key in sorted(olds.keys() | news.keys()):
        one, other = (entries.get(key, "absent") for entries in (olds, news))
        if one != other:
            yield "metadata", key, changed(one, other)
    for model in models:
        model.ClearField("metadata_props")
    found = list(in_messages(*models))
    one, other = (model.SerializeToString(deterministic=True) for model in models)
    if one != other and not found:
        found = [("fields that onnx does not know", "they differ")]
    for where, change in found[:MOST_PER_FILE]:
        yield "graph", where, change


def in_safetensors(old, new):
    """What differs first between two SafeTensors files."""
    ends = [8 + int.from_bytes(raw[:8], "little") for raw in (old, new)]
    headers = [json.loads(raw[8:end]) for raw, end in zip((old, new), ends)]
    for one, other in [[header.pop("__metadata__", {}) for header in headers], headers]:
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return f"header: {key}", changed(one.get(key, "absent"), other.get(key, "absent"))
    for key, entry in headers[0].items():
        parts = (raw[slice(*(end + at for at in entry["data_offsets"]))] for raw, end in zip((old, new), ends))
        if len(set(parts)) == 2:
            return f"data: {key}", "other bytes"
    return "padding", changed(len(old), len(new))


def in_file(name, old, new):
    if name.endswith(".onnx"):
        yield from in_models(old, new)
    elif name.endswith(".safetensors"):
        yield "weights", *in_safetensors(old, new)
    elif len(old) != len(new):
        yield "file", Path(name).name, f"{len(old)} -> {len(new)} bytes"
    else:
        first = next(at for at in range(len(old)) if old[at] != new[at])
        yield "file", Path(name).name, f"other bytes, from {first} on"


def snapshot(home):
    """What is below a folder; files with what changes when one is written."""
    found = {}
    for path in home.rglob("*"):
        name, status = str(path.relative_to(home)), path.lstat()
        found |= {f"{name}/": ()} if path.is_dir() else {name: (status.st_size, status.st_mtime_ns)}
    return found


def in_files(homes, before):
    """Differences between what was written into two folders since they looked like `before`."""
    after = [snapshot(home) for home in homes]
    lost = [before[side].keys() - after[side].keys() for side in (0, 1)]
    written = [{n for n in after[side] if after[side][n] != before[side].get(n)} for side in (0, 1)]
    for verb, names in [("removes", lost), ("writes", written)]:
        lone = names[0] ^ names[1]
        for name in sorted(name for name in lone if not any(f"{above}/" in lone for above in Path(name).parents)):
            yield Difference("files", name, only(name in names[1], f"{verb} it"))
    for name in sorted(n for n in written[0] & written[1] if not n.endswith("/")):
        old, new = (Path(home, name).read_bytes() for home in homes)
        try:
            found = list(in_file(name, old, new)) if old != new else []
        except (ValueError, DecodeError) as error:
            found = [("file", name, f"cannot be read: {error}")]
        yield from (Difference(*difference, name) for difference in found)
