#!/usr/bin/env python3
"""Makes the goldens beside this file: make_gradients.py FOLDER

Three small Mamba models of random weights, a text each, its loss and the gradient by every weight,
from autograd through the sequential path of the transformers implementation, in double precision.
That implementation casts parts of its work to float32; here those casts go to float64. The same
model as it comes, in float32, has to agree with that to a few units of float32.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba

SHAPES = {
    "tied": dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=16, conv_kernel=4,
                 expand=2, time_step_rank=3, use_conv_bias=True, tie_word_embeddings=True),
    "own-head": dict(vocab_size=23, hidden_size=12, num_hidden_layers=1, state_size=5,
                     conv_kernel=3, expand=3, time_step_rank=2, use_conv_bias=False,
                     tie_word_embeddings=False),
    "deep": dict(vocab_size=32, hidden_size=20, num_hidden_layers=4, state_size=8, conv_kernel=2,
                 expand=2, time_step_rank=1, use_conv_bias=True, tie_word_embeddings=True),
}
TOKENS = 75  # inputs


class DoubleTorch:
    """The module torch, whose float32 is float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


def randomise(model):
    """Every weight of plausible size, none of them trivial."""
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        if name.endswith("A_log"):
            weight.data = torch.log(torch.arange(1, weight.shape[1] + 1.0)) + 0.3 * noise
        elif name.endswith("mixer.D") or "norm" in name:
            weight.data = 1 + 0.3 * noise
        elif name.endswith("dt_proj.bias"):
            weight.data = -2 + noise
        elif name.endswith("bias"):
            weight.data = 0.3 * noise
        elif "embeddings" in name or "lm_head" in name:
            weight.data = 0.5 * noise
        else:
            weight.data = noise / weight[0].numel() ** 0.5


def gradients(model, tokens):
    model.zero_grad()
    logits = model(tokens[None, :-1], use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum")
    loss.backward()
    return loss.item(), {name: w.grad.double().clone() for name, w in model.named_parameters()}


def in_double(model, tokens):
    plain_float, plain_torch = torch.Tensor.float, modeling_mamba.torch
    torch.Tensor.float = torch.Tensor.double
    modeling_mamba.torch = DoubleTorch()
    try:
        return gradients(model.double(), tokens)
    finally:
        torch.Tensor.float, modeling_mamba.torch = plain_float, plain_torch


def make(folder, name, shape):
    torch.manual_seed(sorted(SHAPES).index(name) + 1)
    config = MambaConfig(pad_token_id=0, bos_token_id=0, eos_token_id=0, use_cache=False, **shape)
    config.intermediate_size = config.expand * config.hidden_size
    model = MambaForCausalLM(config)
    randomise(model)
    model.tie_weights()
    tokens = torch.randint(config.vocab_size, (TOKENS + 1,))
    at = folder / name
    model.save_pretrained(at, safe_serialization=True)
    _, single = gradients(model, tokens)
    loss, double = in_double(model, tokens)
    for key, value in double.items():
        error = (single[key] - value).norm() / value.norm()
        assert error < 1e-4, f"{name}: {key} differs by {error:.1e} in float32"
    save_file({key: value.float().contiguous() for key, value in double.items()},
              at / "gradient.safetensors")
    (at / "expected.json").write_text(
        json.dumps({"tokens": tokens.tolist(), "loss_nats": loss}) + "\n")
    (at / "generation_config.json").unlink(missing_ok=True)
    worst = max(float((single[k] - v).norm() / v.norm()) for k, v in double.items())
    print(f"{name}: loss {loss:.9f}, float32 differs by at most {worst:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(4)
    for name, shape in SHAPES.items():
        make(pathlib.Path(sys.argv[1]), name, shape)
