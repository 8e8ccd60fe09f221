"""Speed of torchtitan's Llama of a given shape on one device, in the loop of `train_loop`.

Its layers as its own `llama3` builds them (FlexAttention within documents, here one for each row), compiled block by
block as its `apply_compile` does, with its cross entropy compiled, under bf16 autocast as its trainer does on one
device, and fused AdamW. Input and output: see `train_loop`.
"""

import json
import sys
from importlib import metadata

import torch
import torchtitan.models.llama3 as llama3
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from train_loop import device, train

payload = json.load(sys.stdin)
shape, vocab, where = payload["shape"], payload["vocab"], device()
dim = shape["hidden_size"]
rope = ComplexRoPE.Config(dim=shape["head_dim"], max_seq_len=payload["seq_len"], theta=shape["rope_theta"])
config = llama3.Llama3Model.Config(
    dim=dim,
    vocab_size=vocab,
    enable_weight_tying=shape["tied"],
    tok_embeddings=Embedding.Config(
        num_embeddings=vocab,
        embedding_dim=dim,
        param_init=llama3._EMBEDDING_SKIP_INIT if shape["tied"] else llama3._EMBEDDING_INIT,
    ),
    norm=RMSNorm.Config(normalized_shape=dim, param_init=llama3._NORM_INIT),
    lm_head=Linear.Config(in_features=dim, out_features=vocab, param_init=llama3._output_linear_init(dim)),
    layers=llama3._build_llama3_layers(
        n_layers=shape["num_layers"],
        dim=dim,
        n_heads=shape["num_heads"],
        n_kv_heads=shape["num_kv_heads"],
        hidden_dim=shape["intermediate_size"],
        rope=rope,
        attn_backend="flex",
    ),
)
model = config.build().to(where)
model.init_states(buffer_device=where)
positions = torch.arange(payload["seq_len"], device=where).expand(payload["micro_batch"], -1).contiguous()
masks = model.get_attention_masks(positions=positions)


def entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


if payload["compile"]:
    entropy = torch.compile(entropy)
    for layer in model.layers.values():
        layer.compile(fullgraph=True)


def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
        return entropy(model(ids, positions, masks), targets)


optimizer = torch.optim.AdamW(model.parameters(), 3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
found = train(payload, model.parameters(), loss_of, optimizer)
found |= {"version": metadata.version("torchtitan"), "parameters": sum(p.numel() for p in model.parameters())}
print(json.dumps(found))
