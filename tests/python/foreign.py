"""Writes a model as other tools could: types, domains and places of its own."""

import sys

import onnx
from onnx import TensorProto, helper


def external(name, dtype, shape, **place):
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def branch(name):
    output = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    stored = external(f"in_{name}", TensorProto.FLOAT, [4], location="branch.bin")
    return helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], name, [], [output], [stored])


def constant(name, file):
    value = external("", TensorProto.FLOAT, [2], location=file, length=8)
    return helper.make_node("Constant", [], [name], value=value)


def main():
    nodes = [
        helper.make_node("Odd", ["x"], ["o"], domain="org.example"),
        helper.make_node("If", ["c"], ["i"], then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("Add", ["o", "i"], ["out"]),
        constant("attribute", "attribute.bin"),
    ]
    stored = [
        helper.make_tensor("c", TensorProto.BOOL, [], [True]),
        external("short", TensorProto.FLOAT, [4], location="data.bin", offset=0, length=12),
        external("up", TensorProto.DOUBLE, [4], location="../up.bin"),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 2])],
        [helper.make_tensor_value_info("out", TensorProto.DOUBLE, ["N", 2])],
        stored,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("org.example", 3)]
    function = helper.make_function(
        "org.example", "Held", [], ["held"], [constant("held", "function.bin")], opsets[:1]
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[function])
    model.producer_name = "red \x1b[31m"
    onnx.save_model(model, sys.argv[1])
    print("null")


main()
