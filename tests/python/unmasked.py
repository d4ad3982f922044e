"""Plants a fault: writes a model in which no token is ever taken for padding."""

import sys

import onnx
from onnx import TensorProto, helper


def renamed(nodes, old, new):
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                renamed(attribute.g.node, old, new)


def main():
    path, faulty = sys.argv[1:]
    model = onnx.load(path, load_external_data=False)
    renamed(model.graph.node, "attention_mask", "all_ones")
    always = [
        helper.make_node("Equal", ["attention_mask", "attention_mask"], ["is_one"]),
        helper.make_node("Cast", ["is_one"], ["all_ones"], to=TensorProto.INT64),
    ]
    nodes = always + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save_model(model, faulty)
    print("null")


main()
