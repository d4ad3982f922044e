"""Places parts of a model by onnxruntime's settings.

Reads {"model", "settings"} from standard input. Prints the parts that nodes name, how many nodes of the
main graph name none, whether logits with the settings are those without, and whether onnxruntime
refuses settings that it cannot read."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from runtime import Session


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def placed(path, settings):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.layer_assignment_settings", settings)
    session = Session(path)
    session.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session


def main():
    request = json.load(sys.stdin)
    model, settings = request["model"], request["settings"]
    main_graph = onnx.load(model, load_external_data=False).graph
    found = [{entry.key: entry.value for entry in node.metadata_props} for node in nodes(main_graph)]
    ids = np.random.default_rng(0).integers(0, 300, (2, 20))
    is_equal = np.array_equal(Session(model).logits(ids), placed(model, settings).logits(ids))
    try:
        placed(model, settings[:-1])
        refuses = False
    except Exception as error:
        refuses = "layering" in str(error)
    parts = sorted({it["layer_ann"] for it in found if "layer_ann" in it})
    without = sum("layer_ann" not in it for it in found)
    print(json.dumps({"parts": parts, "without": without, "is_equal": is_equal, "refuses": refuses}))


main()
