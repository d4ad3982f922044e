"""Checks a model by onnx's checker, with its external data, and by strict shape inference;
prints what onnx reads."""

import hashlib
import json
import sys
from collections import Counter

import onnx


def external(tensor):
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return {
        "name": tensor.name,
        "dims": list(tensor.dims),
        "file": entries["location"],
        "offset": int(entries["offset"]),
        "length": int(entries["length"]),
    }


def main():
    path = sys.argv[1]
    if "--structure-only" not in sys.argv:
        onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    graph = model.graph
    stored = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    inline = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    print(
        json.dumps(
            {
                "digest": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
                "ir_version": model.ir_version,
                "opsets": {entry.domain: entry.version for entry in model.opset_import},
                "producer": model.producer_name,
                "metadata": json.loads(metadata.get("gpt_oss_export", "{}")),
                "functions": [function.name for function in model.functions],
                "attributes": {function.name: list(function.attribute) for function in model.functions},
                "calls": [
                    {"name": node.name, "op": node.op_type, "window": [a.i for a in node.attribute if a.name == "window"]}
                    for node in graph.node
                    if node.domain
                ],
                "nodes": len(graph.node),
                "operators": Counter(node.op_type for node in graph.node),
                "external": [external(tensor) for tensor in stored],
                "largest_inline": max(len(tensor.raw_data) for tensor in inline),
            }
        )
    )


main()
