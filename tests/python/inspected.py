"""Prints what onnx's own reader sees in a model, in the words of `inspect`."""

import collections
import json
import sys

import onnx

DTYPES = {
    onnx.TensorProto.INT64: "i64",
    onnx.TensorProto.FLOAT: "f32",
}


def interface(value):
    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    return {"name": value.name, "dtype": DTYPES[kind.elem_type], "shape": shape}


def count(nodes, found):
    for node in nodes:
        found[f"{node.domain}.{node.op_type}" if node.domain else node.op_type] += 1
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                count(attribute.g.node, found)


def places(tensor):
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return []
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return [{"file": entries["location"], "offset": int(entries["offset"]), "length": int(entries["length"])}]


def main():
    model = onnx.load(sys.argv[1], load_external_data=False)
    operators = collections.Counter()
    count(model.graph.node, operators)
    for function in model.functions:
        count(function.node, operators)
    print(
        json.dumps(
            {
                "ir_version": model.ir_version,
                "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
                "properties": {entry.key: entry.value for entry in model.metadata_props},
                "inputs": [interface(value) for value in model.graph.input],
                "outputs": [interface(value) for value in model.graph.output],
                "functions": [function.name for function in model.functions],
                "operators": operators,
                "tensors": [
                    {"name": tensor.name, "shape": list(tensor.dims), "places": places(tensor)}
                    for tensor in model.graph.initializer
                ],
            }
        )
    )


main()
