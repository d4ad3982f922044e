"""Models in onnxruntime, OpenVINO or onnx's reference evaluator."""

import numpy as np


class Session:
    """A model that is run with and gives arrays by name, in onnxruntime perhaps with an adapter
    of a file."""

    def __init__(self, path, engine=None, adapter=None):
        self.engine = engine
        if engine == "reference":
            from onnx.reference import ReferenceEvaluator

            self.session = ReferenceEvaluator(path)
            self.outputs = self.session.output_names
            inputs = {value.name: value.type.tensor_type for value in self.session.proto_.graph.input}
            self.shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in inputs.items()}
            self.dtype = np.float32
        elif engine == "openvino":
            import openvino

            # By default it computes in BF16 where the CPU can.
            exact = {"INFERENCE_PRECISION_HINT": "f32"}
            self.session = openvino.Core().compile_model(path, "CPU", exact)
            self.outputs = [value.get_any_name() for value in self.session.outputs]
            inputs = {value.get_any_name(): value.get_partial_shape() for value in self.session.inputs}
            self.shapes = {name: [dim.get_max_length() for dim in shape] for name, shape in inputs.items()}
            self.dtype = np.float32
        else:
            import onnxruntime

            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.outputs = [value.name for value in self.session.get_outputs()]
            inputs = self.session.get_inputs()
            self.shapes = {value.name: value.shape for value in inputs}
            is_half = any(value.type == "tensor(float16)" for value in inputs)
            self.dtype = np.float16 if is_half else np.float32
            self.use(adapter)

    def use(self, adapter):
        """Adds this adapter in later runs, and no other."""
        import onnxruntime

        self.options = onnxruntime.RunOptions()
        if adapter:
            # The options do not keep it alive, and without it they add nothing.
            self.adapter = onnxruntime.LoraAdapter()
            self.adapter.Load(adapter)
            self.options.add_active_adapter(self.adapter)

    def run(self, feeds):
        if self.engine == "openvino":
            found = self.session(feeds)
            # Copied: the next run overwrites what this one returns.
            return {name: np.array(found[place]) for place, name in enumerate(self.outputs)}
        if self.engine == "reference":
            return dict(zip(self.outputs, self.session.run(None, feeds)))
        return dict(zip(self.outputs, self.session.run(None, feeds, self.options)))

    def bound(self, past):
        """Runs with these caches, each of which is past and present in one buffer, in onnxruntime."""
        import onnxruntime

        # It keeps no arrays alive.
        buffers = {name: onnxruntime.OrtValue.ortvalue_from_numpy(cache) for name, cache in past.items()}

        def run(feeds):
            binding = self.session.io_binding()
            binding.bind_output("logits")
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name, buffer in buffers.items():
                binding.bind_ortvalue_input(name, buffer)
                binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
            self.session.run_with_iobinding(binding)
            return {"logits": binding.get_outputs()[0].numpy().copy()}

        return run

    def past_names(self):
        return [name for name in self.shapes if name.startswith("past_key_values.")]

    def empty_past(self, batch, buffers={}):
        """Caches without tokens: without places, or buffers of these lengths by their symbols."""
        shapes = [self.shapes[name] for name in self.past_names()]
        return [
            np.full((batch, heads, buffers.get(places, 0), width), 7, self.dtype)
            for _, heads, places, width in shapes
        ]

    def logits(self, ids):
        """Logits for tokens alone: nothing is padding, nothing came before."""
        feeds = dict(zip(self.past_names(), self.empty_past(len(ids))), input_ids=ids)
        if "attention_mask" in self.shapes:
            feeds["attention_mask"] = np.ones(ids.shape, np.int64)
        return self.run(feeds)["logits"]


class Stages(Session):
    """The stages of a model, run one after the other, in onnxruntime with an adapter file or none for
    each."""

    def __init__(self, paths, engine=None, adapters=None):
        self.stages = [Session(*of) for of in zip(paths, [engine] * len(paths), adapters or [None] * len(paths))]
        shapes = [item for stage in self.stages for item in stage.shapes.items()]
        self.shapes = {name: shape for name, shape in shapes if not name.startswith("hidden_states.")}
        self.dtype = min((stage.dtype for stage in self.stages), key=lambda dtype: np.dtype(dtype).itemsize)

    def use(self, adapters):
        for stage, adapter in zip(self.stages, adapters or [None] * len(self.stages)):
            stage.use(adapter)

    def run(self, feeds):
        known = dict(feeds)
        for stage in self.stages:
            known.update(stage.run({name: known[name] for name in stage.shapes}))
        return known


def open_model(model, engine=None, adapter=None):
    """A model in a file, or in several as stages."""
    return (Stages if isinstance(model, list) else Session)(model, engine, adapter)
