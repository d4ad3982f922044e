"""Exports a checkpoint with transformers and torch.onnx, without a dedicated exporter."""

import sys

import torch
from transformers import AutoModelForCausalLM


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


checkpoint, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    checkpoint,
    dtype=torch.float32,
    attn_implementation="eager",
    experts_implementation="batched_mm",
)
with torch.no_grad():
    program = torch.onnx.export(
        Logits(model.eval()),
        (torch.arange(1, 41).reshape(1, 40),),
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": {1: torch.export.Dim("T", min=2, max=4096)}},
        dynamo=True,
        opset_version=23,
    )
program.save(output, external_data=True)
