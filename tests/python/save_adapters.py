"""Saves LoRA adapters as PEFT does, with random values, and the logits of their models.

Takes a checkpoint with experts in numbers and a folder. Prints the version of PEFT, and for each
adapter its folder, and files of token ids `[2, 40]` and of float32 logits `[2, 40, vocabulary]`."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

warnings.filterwarnings("ignore")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = [f"{layer}.mlp.experts.{matrix}" for layer in (1, 2) for matrix in ("gate_up_proj", "down_proj")]
ADAPTERS = {
    "attention": {"target_modules": ATTENTION},
    "experts": {"target_modules": "all-linear", "target_parameters": EXPERTS},
    "patterns": {"target_modules": ATTENTION, "use_rslora": True, "rank_pattern": {"k_proj": 2},
                 "alpha_pattern": {r"layers\.0\.self_attn\.v_proj": 9}, "layers_to_transform": [0, 2]},
    "one-parameter": {"target_modules": ["o_proj"], "target_parameters": ["0.mlp.experts.gate_up_proj"]},
    "router-head": {"target_modules": ["lm_head"], "target_parameters": ["mlp.router.weight"]},
    "whole-modules": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "input_layernorm"]},
    "saved-embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 42], "lm_head": [7]}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "biases": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only", "lora_bias": True},
}


def main():
    base, target = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    adapters = {}
    for name, keys in ADAPTERS.items():
        model = transformers.GptOssForCausalLM.from_pretrained(base, attn_implementation="eager")
        config = peft.LoraConfig(r=4, lora_alpha=8, **keys)
        model = peft.get_peft_model(model.to(torch.float32).eval(), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn_like(parameter) * 0.05
            ids = torch.randint(0, model.config.vocab_size, (2, 40))
            logits = model(input_ids=ids).logits
        folder = target / name
        # By itself PEFT does so for a vocabulary that was resized.
        model.save_pretrained(folder, save_embedding_layers=True if name == "saved-embeddings" else "auto")
        files = {"folder": folder, "ids": target / f"{name}.ids.npy", "logits": target / f"{name}.npy"}
        np.save(files["ids"], ids.numpy())
        np.save(files["logits"], logits.numpy())
        adapters[name] = {key: str(path) for key, path in files.items()}
    print(json.dumps({"version": peft.__version__, "adapters": adapters}))


main()
