"""Models in onnxruntime, or in onnx's reference evaluator."""

import numpy as np


class Session:
    """A model that is run with and gives arrays by name; `inputs` are shapes by name."""

    def __init__(self, path, engine=None):
        if engine == "reference":
            from onnx.reference import ReferenceEvaluator

            self.session = ReferenceEvaluator(path)
            self.outputs = self.session.output_names
            shape = lambda value: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
            self.inputs = {value.name: shape(value) for value in self.session.proto_.graph.input}
        else:
            import onnxruntime

            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.outputs = [value.name for value in self.session.get_outputs()]
            self.inputs = {value.name: value.shape for value in self.session.get_inputs()}

    def run(self, feeds):
        return dict(zip(self.outputs, self.session.run(None, feeds)))

    def past_names(self):
        return [name for name in self.inputs if name.startswith("past_key_values.")]

    def empty_past(self, batch):
        shapes = [self.inputs[name] for name in self.past_names()]
        return [np.zeros((batch, shape[1], 0, shape[3]), np.float32) for shape in shapes]

    def logits(self, ids):
        """Logits for tokens alone: nothing is padding, nothing came before."""
        feeds = dict(zip(self.past_names(), self.empty_past(len(ids))), input_ids=ids)
        if "attention_mask" in self.inputs:
            feeds["attention_mask"] = np.ones(ids.shape, np.int64)
        return self.run(feeds)["logits"]
