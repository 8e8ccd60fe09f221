"""A Llama-style decoder as one list of layers: embedding, blocks, head.

What travels between layers is one tensor, or with documents that tensor and the segments, so the list itself is the
model: run in order here, and cut into stages where a pipeline runs it. Inside a layer the names and the rotary layout
(half-split) are those of Hugging Face's Llama, with Qwen3's for QK-norm; `canonical_name` maps a position in the list
to the full Hugging Face name, and both the initial weights and the checkpoints are keyed by it. So no weight is ever
permuted or renamed on export.

Definitions: RMSNorm (Zhang and Sennrich 2019), RoPE (Su et al. 2021), SwiGLU and GeGLU (Shazeer 2020), grouped-query
attention (Ainslie et al. 2023), QK-norm over each head before RoPE (Qwen3, 2025), composed as in Llama 2 (Touvron et
al. 2023). Under autocast the residual stream is 16 bits, as activations between pipeline stages are.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.attention import Kind, Mask, attend, document_mask
from trainer.linear import ColumnLinear, Linear, RowLinear, TensorParallel
from trainer.loss import RowLoss, compute_dtype, linear_cross_entropy, row_loss, token_nll
from trainer.shape import ModelConfig

INIT_STD = 0.02

# Between layers: x [B, T, d] (ids int64 [B, T] before the first), or x and segments int32 [B, T].
Travels: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


@functools.lru_cache(maxsize=16)
def _rope_tables(length: int, dim: int, theta: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Not under inference mode, whose tensors a later backward pass could not use.
    with torch.inference_mode(False), torch.no_grad():
        frequency = 1.0 / theta ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequency)
        angle = torch.cat([angle, angle], -1)[:, None]
        return angle.cos(), angle.sin()


def rope_tables(x: torch.Tensor, dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, fp32 [T, 1, dim], for x [B, T, ...]; the second half of dim repeats the first.

    Views of cached tables, unless x is a fake tensor, which must not meet a real one.
    """
    length = x.shape[1]
    build = _rope_tables if type(x) is torch.Tensor else _rope_tables.__wrapped__
    cos, sin = build(1 << max(0, length - 1).bit_length(), dim, theta, x.device)
    return cos[:length], sin[:length]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply the rotary embedding to x [batch, length, heads, dim], computed in fp32."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


class RMSNorm(nn.Module):
    """Over the last dimension. `parallel` where the ranks of a group normalise different heads with one weight.

    Computed in fp32 inside, in x's dtype outside: CUDA's autocast, unlike the CPU's, would give fp32, which is twice
    the bytes and another dtype for queries and keys than for values.
    """

    def __init__(self, size: int, eps: float, parallel: TensorParallel | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.parallel = eps, parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.parallel.enter(self.weight) if self.parallel else self.weight
        # The CPU's autocast leaves it alone, and the meta device has none.
        with torch.autocast("cuda", enabled=False) if x.device.type == "cuda" else contextlib.nullcontext():
            return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions; this rank's heads where the ranks share a matrix."""

    def __init__(self, shape: ModelConfig, parallel: TensorParallel | None = None) -> None:
        super().__init__()
        self.head_dim, self.parallel = shape.head_dim, parallel
        heads, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.q_proj = ColumnLinear(shape.hidden_size, heads, shape.bias, parallel)
        self.k_proj = ColumnLinear(shape.hidden_size, keys, shape.bias, parallel)
        self.v_proj = ColumnLinear(shape.hidden_size, keys, shape.bias, parallel)
        self.o_proj = RowLinear(heads, shape.hidden_size, shape.bias, parallel)
        self.q_norm = RMSNorm(shape.head_dim, shape.rms_norm_eps, parallel) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.head_dim, shape.rms_norm_eps, parallel) if shape.qk_norm else None

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        if self.parallel:
            x = self.parallel.enter(x)
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        y = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, mask)
        return self.o_proj(y.flatten(2))


class GatedMLP(nn.Module):
    def __init__(self, shape: ModelConfig, parallel: TensorParallel | None = None) -> None:
        super().__init__()
        self.parallel = parallel
        self.activation = F.silu if shape.activation == "silu" else F.gelu
        self.gate_proj = ColumnLinear(shape.hidden_size, shape.intermediate_size, shape.bias, parallel)
        self.up_proj = ColumnLinear(shape.hidden_size, shape.intermediate_size, shape.bias, parallel)
        self.down_proj = RowLinear(shape.intermediate_size, shape.hidden_size, shape.bias, parallel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.parallel:
            x = self.parallel.enter(x)
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Embed(nn.Module):
    """ids int64 [B, T], or (ids, segments), to x [B, T, d], or (x, segments)."""

    def __init__(self, shape: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        empty = torch.empty(vocab_size, shape.hidden_size)  # drawn by `initialise`
        self.embed_tokens = nn.Embedding(vocab_size, shape.hidden_size, _weight=empty)

    def forward(self, inputs: Travels) -> Travels:
        ids, segments = inputs if isinstance(inputs, tuple) else (inputs, None)
        x = self.embed_tokens(ids)
        x = x.to(compute_dtype(x))
        return x if segments is None else (x, segments)


class Block(nn.Module):
    """One decoder block. Rotary tables and masks are looked up outside `run`, which is what is compiled."""

    def __init__(
        self, shape: ModelConfig, parallel: TensorParallel | None = None, attention: Kind = "auto",
        checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape, parallel)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = GatedMLP(shape, parallel)
        self.theta, self.attention, self.checkpointing = shape.rope_theta, attention, checkpointing
        self.compiled: Callable[..., torch.Tensor] | None = None

    def run(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))

    def forward(self, inputs: Travels) -> Travels:
        x, segments = inputs if isinstance(inputs, tuple) else (inputs, None)
        head_dim = self.self_attn.head_dim
        mask = None if segments is None else document_mask(segments, self.attention, compute_dtype(x), head_dim)
        tables = rope_tables(x, head_dim, self.theta)
        # Evaluation runs uncompiled: its lengths vary, and each would be compiled anew.
        run = self.compiled if self.compiled and torch.is_grad_enabled() else self.run
        if self.checkpointing and torch.is_grad_enabled():
            # Nothing in a block is random, and reading the random state would wait for the GPU.
            x = checkpoint(run, x, *tables, mask, use_reentrant=False, preserve_rng_state=False)
        else:
            x = run(x, *tables, mask)
        return x if segments is None else (x, segments)


class Head(nn.Module):
    """Final norm and output matrix. `forward` gives normed hidden states; the logits of a batch are never whole."""

    def __init__(self, shape: ModelConfig, vocab_size: int, z_loss: float = 0.0) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = Linear(shape.hidden_size, vocab_size, bias=False)
        self.z_loss = z_loss
        self.rows: RowLoss = row_loss

    def forward(self, inputs: Travels, targets: torch.Tensor | None = None, per_target: bool = False) -> torch.Tensor:
        """Normed hidden states [B, T, d]; with `targets` [B, T] what `loss` or `token_nll` make of them."""
        hidden = self.norm(inputs[0] if isinstance(inputs, tuple) else inputs)
        if targets is None:
            return hidden
        return self.token_nll(hidden, targets) if per_target else self.loss(hidden, targets)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """All logits [B, T, V]: for short inputs and tests."""
        return self.lm_head(hidden)

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of all targets divided by B x T, a fp32 scalar in nats."""
        return linear_cross_entropy(
            hidden.flatten(0, 1), self.lm_head.weight, targets.flatten(), self.z_loss, self.rows
        )

    def token_nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each target, fp32 [B, T], 0 where IGNORE; without gradients."""
        return token_nll(hidden.flatten(0, 1), self.lm_head.weight, targets.flatten()).view(targets.shape)


def canonical_name(name: str, num_layers: int) -> str:
    """Hugging Face's name of a parameter from its name in the list: `3.mlp.x` to `model.layers.2.mlp.x`.

    DeepSpeed's pipeline keeps tied layers apart as `tied_modules.<key>`: there the head's matrix is the embedding.
    """
    position, _, rest = name.partition(".")
    if position == "tied_modules":
        rest = rest.partition(".")[2]
        return f"model.{rest.replace('lm_head.', 'embed_tokens.')}"
    index = int(position)
    if 1 <= index <= num_layers:
        return f"model.layers.{index - 1}.{rest}"
    return rest if rest.startswith("lm_head.") else f"model.{rest}"


def padded_vocab(vocab_size: int) -> int:
    """The vocabulary rounded up to a multiple of 64, the tile of the matrix units."""
    return -(-vocab_size // 64) * 64


class Llama(nn.Sequential):
    """The layer list run in order. `named_parameters` gives list names; see `canonical_name`."""

    def __init__(
        self, shape: ModelConfig, vocab_size: int, seed: int = 0, *, parallel: TensorParallel | None = None,
        attention: Kind = "auto", checkpointing: bool = False, z_loss: float = 0.0,
    ) -> None:  # fmt: skip
        embed, head = Embed(shape, vocab_size), Head(shape, vocab_size, z_loss)
        blocks = (Block(shape, parallel, attention, checkpointing) for _ in range(shape.num_layers))
        super().__init__(embed, *blocks, head)
        self.shape, self.vocab_size = shape, vocab_size
        if shape.tied:
            head.lm_head.weight = embed.embed_tokens.weight
        initialise(self.named_parameters(), shape, seed, parallel)

    def forward(
        self, ids: torch.Tensor, targets: torch.Tensor | None = None, segments: torch.Tensor | None = None,
        per_target: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """Logits [B, T, V] of `ids` int64 [B, T]; with `targets` [B, T] their loss divided by B x T, in nats.

        `segments` int32 [B, T] keeps attention inside documents. `per_target` gives instead the negative
        log-likelihood of each target, fp32 [B, T], with 0 where the target is IGNORE, and no gradients.
        """
        *body, head = self
        x: Travels = ids if segments is None else (ids, segments)
        for layer in body:
            x = layer(x)
        assert isinstance(head, Head)
        return head.logits(head(x)) if targets is None else head(x, targets, per_target)

    def canonical_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by Hugging Face name; a tied head appears once, as `model.embed_tokens.weight`."""
        return {canonical_name(name, self.shape.num_layers): p for name, p in self.named_parameters()}


@torch.no_grad()
def initialise(
    parameters: Iterable[tuple[str, nn.Parameter]], shape: ModelConfig, seed: int, parallel: TensorParallel | None
) -> None:
    """Normal(0, 0.02); the matrices that write to the residual stream divided by sqrt(2 L) (GPT-2); biases 0, norms 1.

    `parameters` are by list name. Each matrix is drawn whole, on the CPU, from a generator keyed by its canonical
    name, and then cut: any cut of the model over processes starts from the same weights.
    """
    for listed, parameter in parameters:
        name = canonical_name(listed, shape.num_layers)
        if parameter.is_meta:
            continue
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            continue
        size, dim = list(parameter.shape), getattr(parameter, "tp_dim", None)
        if parallel and dim is not None:
            size[dim] *= parallel.size
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = INIT_STD / (2 * shape.num_layers) ** 0.5 if residual else INIT_STD
        whole = torch.randn(size, generator=generator, device="cpu").mul_(std)
        parameter.copy_(parallel.share(whole, dim) if parallel and dim is not None else whole)


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """torch.compile for each block (one graph serves them all) and for the pointwise part of the head's loss.

    What is compiled is used in training alone.
    """
    for module in model.modules():
        if isinstance(module, Block):
            module.compiled = torch.compile(module.run, backend=backend)
        elif isinstance(module, Head):
            module.rows = torch.compile(row_loss, backend=backend)
