"""Speed of nanochat's GPT of a given width, depth and heads on one device, in the loop of `train_loop`.

Its own model, compiled whole as its `base_train` does, with its own optimizer (Muon for the matrices). It differs from
a Llama: an MLP of two matrices of 4 d with squared ReLU (the parameters of a gated one of 8/3 d), value embeddings, an
untied head. Attention reaches the whole context (pattern L). `flops_per_token` is its own estimate.
"""

import contextlib
import io
import json
import sys

import torch
from train_loop import device, train

payload = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    from nanochat.gpt import GPT, GPTConfig

    shape, where = payload["shape"], device()
    config = GPTConfig(
        sequence_len=payload["seq_len"],
        vocab_size=payload["vocab"],
        n_layer=shape["num_layers"],
        n_head=shape["num_heads"],
        n_kv_head=shape["num_kv_heads"],
        n_embd=shape["hidden_size"],
        window_pattern="L",
    )
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device=where)
    model.init_weights()
    optimizer = model.setup_optimizer()
    run = torch.compile(model, dynamic=False) if payload["compile"] else model
    found = train(payload, model.parameters(), run, optimizer)
found |= {"version": "its repository", "flops_per_token": model.estimate_flops()}
found |= {"parameters": sum(p.numel() for p in model.parameters())}
print(json.dumps(found))
