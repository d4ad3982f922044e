"""Models in onnxruntime, or in onnx's reference evaluator."""

import numpy as np


class Session:
    """A model that is run with and gives arrays by name."""

    def __init__(self, path, engine=None):
        if engine == "reference":
            from onnx.reference import ReferenceEvaluator

            self.session = ReferenceEvaluator(path)
            self.outputs = self.session.output_names
            inputs = {value.name: value.type.tensor_type for value in self.session.proto_.graph.input}
            self.shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in inputs.items()}
            self.dtype = np.float32
        else:
            import onnxruntime

            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.outputs = [value.name for value in self.session.get_outputs()]
            inputs = self.session.get_inputs()
            self.shapes = {value.name: value.shape for value in inputs}
            is_half = any(value.type == "tensor(float16)" for value in inputs)
            self.dtype = np.float16 if is_half else np.float32

    def run(self, feeds):
        return dict(zip(self.outputs, self.session.run(None, feeds)))

    def past_names(self):
        return [name for name in self.shapes if name.startswith("past_key_values.")]

    def empty_past(self, batch):
        shapes = [self.shapes[name] for name in self.past_names()]
        return [np.zeros((batch, heads, 0, width), self.dtype) for _, heads, _, width in shapes]

    def logits(self, ids):
        """Logits for tokens alone: nothing is padding, nothing came before."""
        feeds = dict(zip(self.past_names(), self.empty_past(len(ids))), input_ids=ids)
        if "attention_mask" in self.shapes:
            feeds["attention_mask"] = np.ones(ids.shape, np.int64)
        return self.run(feeds)["logits"]
