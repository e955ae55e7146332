#!/usr/bin/env python3
"""Reads a byte model in transformers: check_checkpoint.py FOLDER RUN.json

The folder has to load with no tensor missing, left over or of another shape. RUN.json is what
`mambabyte generate --dtype f32 --json` wrote with the model: transformers has to find each of its
bytes as surprising.
"""
import json
import math
import sys

import torch
from transformers import MambaForCausalLM


def main(folder, run):
    model, info = MambaForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32)
    for problem, names in info.items():
        assert not names, f"{problem}: {names}"
    records = json.load(open(run))["byte_records"]
    text = torch.tensor([record["byte"] for record in records])
    with torch.no_grad():
        bits = -model(text[None, :-1]).logits[0].double().log_softmax(-1) / math.log(2)
    found = bits.gather(1, text[1:, None])[:, 0]
    ours = torch.tensor([record["surprisal_bits"] for record in records[1:]]).double()
    worst = (found - ours).abs().max().item()
    greedy = sum(int(bits[i - 1].argmin()) == record["byte"] for i, record in enumerate(records)
                 if record["origin"] == "plain")
    print(f"{len(ours)} bytes, {found.mean():.6f} bits a byte, ours {ours.mean():.6f}, "
          f"largest difference {worst:.1e}; {greedy} written bytes are its most probable")
    assert worst < 1e-3


if __name__ == "__main__":
    main(*sys.argv[1:])
