"""Checks models by onnx.checker and by the schemas of ONNX Runtime's operators, and
compares the logits of those that a CPU can run with those of another model.

Reads {"models": [{"model", "like"}]} from standard input: `like` is the model to be
compared with, or null where a CPU has no kernels. Prints for each model {"max", "mean"}:
how far its logits for a text of 40 tokens are from those of `like` (0 without one)."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state
from runtime import Session

DOMAIN = "com.microsoft"
SCHEMAS = {schema.name: schema for schema in state.get_all_operator_schema() if schema.domain == DOMAIN}
KINDS = {
    onnx.AttributeProto.INT: "INT", onnx.AttributeProto.FLOAT: "FLOAT",
    onnx.AttributeProto.STRING: "STRING", onnx.AttributeProto.INTS: "INTS",
}
TYPES = {
    onnx.TensorProto.FLOAT: "tensor(float)", onnx.TensorProto.FLOAT16: "tensor(float16)",
    onnx.TensorProto.BFLOAT16: "tensor(bfloat16)", onnx.TensorProto.INT32: "tensor(int32)",
    onnx.TensorProto.INT64: "tensor(int64)", onnx.TensorProto.UINT8: "tensor(uint8)",
    onnx.TensorProto.FLOAT8E8M0: "tensor(float8e8m0)",
    onnx.TensorProto.FLOAT8E4M3FN: "tensor(float8e4m3fn)",
}


def check_schemas(path):
    """Every node of ONNX Runtime's own has the inputs and attributes of its schema, and
    what one type variable stands for is one type."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    known = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        known[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] not in known:
            known[node.output[0]] = next(a.i for a in node.attribute if a.name == "to")
    for node in graph.node:
        if node.domain != DOMAIN:
            continue
        schema = SCHEMAS[node.op_type]
        where = f"{path}: {node.name}"
        for attribute in node.attribute:
            expected = schema.attributes[attribute.name].type.name
            assert KINDS[attribute.type] == expected, f"{where}: {attribute.name}"
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        chosen = {}
        assert schema.min_input <= len(node.input) <= schema.max_input, where
        for name, formal in zip(node.input, schema.inputs):
            optional = formal.option == formal.option.Optional
            assert name or optional, f"{where}: {formal.name} is needed"
            if name in known:
                found = TYPES[known[name]]
                types = allowed.get(formal.typeStr, [formal.typeStr])
                assert found in types, f"{where}: {formal.name} is {found}, not in {types}"
                assert chosen.setdefault(formal.typeStr, found) == found, f"{where}: {formal.typeStr}"


def logits(path):
    return Session(path).logits(np.random.default_rng(1).integers(0, 160, (1, 40)))


def main():
    onnxruntime.set_default_logger_severity(4)
    known = {}
    for request in json.load(sys.stdin)["models"]:
        path, like = request["model"], request["like"]
        onnx.checker.check_model(path, full_check=True)
        check_schemas(path)
        if like is None:
            yield {"max": 0.0, "mean": 0.0}
            continue
        if like not in known:
            known = {like: logits(like)}
        off = np.abs(logits(path) - known[like])
        assert np.isfinite(off).all(), path
        yield {"max": float(off.max()), "mean": float(off.mean())}


print(json.dumps(list(main())))
