"""Validates summaries, each with the command that printed it, against their schema: what is wrong,
and which keys of which objects no summary has, or all have although they may be absent."""

import json
import sys
from collections import Counter
from pathlib import Path

from jsonschema import Draft202012Validator, validators

request = json.load(sys.stdin)
schema = json.loads(Path(request["schema"]).read_text())
Draft202012Validator.check_schema(schema)
# For each object of the schema, by identity: how many objects of summaries it fits, and their keys.
fits, keys = Counter(), Counter()


def properties(validator, value, instance, schema):
    errors = list(Draft202012Validator.VALIDATORS["properties"](validator, value, instance, schema))
    if not errors and isinstance(instance, dict):
        fits[id(schema)] += 1
        keys.update((id(schema), key) for key in instance)
    yield from errors


def cause(error):
    """Of several definitions the error in the one that has the object's type and constants."""
    branches = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    for errors in branches.values():
        if not any(it.validator in ("const", "enum", "type") and len(it.path) < 2 for it in errors):
            return cause(errors[0])
    return error


def objects(value, path):
    if isinstance(value, dict):
        if isinstance(value.get("properties"), dict) and "type" in value:
            yield path, value
        for key, inner in value.items():
            yield from objects(inner, [*path, key])
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner, path)


wrong = []
for command, summary in request["summaries"]:
    recording = validators.extend(Draft202012Validator, {"properties": properties})
    definition = {"$ref": f"#/$defs/{command}", "$defs": schema["$defs"]}
    for error in map(cause, recording(definition).iter_errors(summary)):
        wrong.append(f"{command} {error.json_path}: {error.message[:400]}")

never, always, open_ = [], [], []
for path, known in objects(schema["$defs"], []):
    name = ".".join(it for it in path if it not in ("properties", "items"))
    if known.get("additionalProperties") is not False:
        open_.append(name)
    for key in known["properties"]:
        count = keys[id(known), key]
        if count == 0:
            never.append(f"{name}.{key}")
        elif count == fits[id(known)] and key not in known.get("required", []):
            always.append(f"{name}.{key}")
print(json.dumps({"wrong": wrong, "never": never, "always": always, "open": open_}))
