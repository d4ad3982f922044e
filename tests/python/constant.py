"""Plants a fault: a number becomes another, wherever a model has it as a constant or as
SwiGLU's slope: CONSTANT MODEL OLD NEW. Prints how often."""

import sys

import numpy as np
import onnx

DTYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.INT64: np.int64}


def main():
    path, old, new = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    model = onnx.load(path, load_external_data=False)
    planted = 0
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "activation_alpha" and attribute.f == np.float32(old):
                attribute.f = new
                planted += 1
    for tensor in model.graph.initializer:
        dtype = DTYPES.get(tensor.data_type)
        if dtype and dtype(old) == np.float32(old) and tensor.raw_data == dtype(old).tobytes():
            tensor.raw_data = dtype(new).tobytes()
            planted += 1
    onnx.save_model(model, path)
    print(planted)


main()
