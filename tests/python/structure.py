"""Compares two models without their weights: whether they are equal but for
their metadata, and which keys of it only the second one has."""

import json
import sys

import onnx


def main():
    one, other = (onnx.load(path, load_external_data=False) for path in sys.argv[1:])
    keys = [set(json.loads(model.metadata_props[0].value)) for model in (one, other)]
    for model in (one, other):
        del model.metadata_props[:]
    equal = one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
    print(json.dumps({"equal": equal, "only_in_second": sorted(keys[1] - keys[0])}))


main()
