"""Exports a checkpoint with transformers and torch.onnx: the way without a tool."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def main(checkpoint, folder):
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="batched_mm",
    )
    ids = torch.arange(1, 41).reshape(1, 40)
    sequence = torch.export.Dim("T", min=2, max=4096)
    with torch.no_grad():
        program = torch.onnx.export(
            Logits(model.eval()),
            (ids,),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": {1: sequence}},
            dynamo=True,
            opset_version=23,
        )
    program.save(Path(folder) / "model.onnx", external_data=True)


main(*sys.argv[1:])
