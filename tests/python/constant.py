"""Plants a fault: SwiGLU's slope of 1.702 becomes another, wherever a model has it."""

import sys

import numpy as np
import onnx


def main():
    path, slope = sys.argv[1], np.float32(sys.argv[2])
    model = onnx.load(path, load_external_data=False)
    planted = 0
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "activation_alpha":
                attribute.f = slope
                planted += 1
    for tensor in model.graph.initializer:
        is_number = tensor.data_type == onnx.TensorProto.FLOAT and not tensor.dims
        if is_number and tensor.raw_data == np.float32(1.702).tobytes():
            tensor.raw_data = slope.tobytes()
            planted += 1
    onnx.save_model(model, path)
    print(planted)


main()
