"""A Llama-style decoder as one list of layers: embedding, blocks, head.

Each layer maps one tensor to one tensor, so the list itself is the model: run in order here, and cut into
stages where a pipeline runs it. Inside a layer the names and the rotary layout (half-split) are those of Hugging
Face's Llama; `canonical_name` maps a position in the list to the full Hugging Face name, and both the initial
weights and the checkpoints are keyed by it. So no weight is ever permuted or renamed on export.

Definitions: RMSNorm (Zhang and Sennrich 2019), RoPE (Su et al. 2021), SwiGLU (Shazeer 2020), grouped-query
attention (Ainslie et al. 2023), composed as in Llama 2 (Touvron et al. 2023).
"""

from __future__ import annotations

import functools
import zlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trainer.shape import ModelConfig
from trainer.loss import IGNORE, token_nll

INIT_STD = 0.02


@functools.lru_cache(maxsize=16)
def rope_tables(length: int, dim: int, theta: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, fp32 [length, dim]; the second half repeats the first."""
    frequency = 1.0 / theta ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequency)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply the rotary embedding to x [batch, heads, length, dim]."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.head_dim, self.theta = shape.head_dim, shape.rope_theta
        keys = shape.num_kv_heads * shape.head_dim
        self.grouped = shape.num_kv_heads != shape.num_heads
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            project(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = rope_tables(length, self.head_dim, self.theta, x.device)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class SwiGLU(nn.Module):
    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Embed(nn.Module):
    """int64 [batch, length] to [batch, length, d]."""

    def __init__(self, shape: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, shape.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(ids)


class Block(nn.Module):
    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = SwiGLU(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Head(nn.Module):
    """Final norm and output matrix: logits, or with targets the negative log-likelihood of each (0 if ignored)."""

    def __init__(self, shape: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, vocab_size, bias=False)

    def forward(self, x: torch.Tensor, targets: torch.Tensor | None = None, sparse: bool = False) -> torch.Tensor:
        x = self.norm(x)
        if targets is None:
            return self.lm_head(x)
        vocab_size = self.lm_head.out_features
        if not sparse:
            return token_nll(self.lm_head, x.flatten(0, 1), targets.flatten(), vocab_size).view(targets.shape)
        wanted = targets != IGNORE
        nll = torch.zeros(targets.shape, dtype=torch.float32, device=x.device)
        nll[wanted] = token_nll(self.lm_head, x[wanted], targets[wanted], vocab_size)
        return nll


def layer_list(shape: ModelConfig, vocab_size: int) -> list[nn.Module]:
    return [Embed(shape, vocab_size), *(Block(shape) for _ in range(shape.num_layers)), Head(shape, vocab_size)]


def canonical_name(name: str, num_layers: int) -> str:
    """Hugging Face's name of a parameter from its name in the list: `3.mlp.x` to `model.layers.2.mlp.x`."""
    position, _, rest = name.partition(".")
    index = int(position)
    if 1 <= index <= num_layers:
        return f"model.layers.{index - 1}.{rest}"
    return rest if rest.startswith("lm_head.") else f"model.{rest}"


def padded_vocab(vocab_size: int) -> int:
    """The vocabulary rounded up to a multiple of 64, the tile of the matrix units."""
    return -(-vocab_size // 64) * 64


class Llama(nn.Sequential):
    """The layer list run in order. `named_parameters` gives list names; see `canonical_name`."""

    def __init__(self, shape: ModelConfig, vocab_size: int, seed: int = 0) -> None:
        layers = layer_list(shape, vocab_size)
        super().__init__(*layers)
        self.shape, self.vocab_size = shape, vocab_size
        if shape.tied:
            embed, head = layers[0], layers[-1]
            assert isinstance(embed, Embed) and isinstance(head, Head)  # noqa: PT018
            head.lm_head.weight = embed.embed_tokens.weight
        initialise(self, seed)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None, sparse: bool = False) -> torch.Tensor:
        """Logits [B, T, V] of `ids` int64 [B, T]; with `targets` [B, T] their mean loss in nats.

        `sparse` gives instead the loss of each target, fp32 [B, T], with 0 where the target is IGNORE.
        """
        *body, head = self
        x = ids
        for layer in body:
            x = layer(x)
        if targets is None:
            return head(x)
        return head(x, targets, True) if sparse else head(x, targets).mean()

    def canonical_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by Hugging Face name; a tied head appears once, as `model.embed_tokens.weight`."""
        return {canonical_name(name, self.shape.num_layers): p for name, p in self.named_parameters()}


@torch.no_grad()
def initialise(model: Llama, seed: int) -> None:
    """Normal(0, 0.02); the matrices that write to the residual stream divided by sqrt(2 L) (GPT-2).

    Each matrix is drawn from a generator keyed by its canonical name, so any cut of the model over processes
    starts from the same weights.
    """
    for name, parameter in model.canonical_parameters().items():
        if parameter.dim() < 2:
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = INIT_STD / (2 * model.shape.num_layers) ** 0.5 if residual else INIT_STD
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def hf_config(shape: ModelConfig, vocab_size: int, seq_len: int, eos_id: int) -> dict[str, Any]:
    """The `config.json` that makes `transformers` load the weights as LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": seq_len,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "torch_dtype": "float32",
    }
