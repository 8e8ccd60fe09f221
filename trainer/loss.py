"""Cross entropy of a linear head in chunks: the logits of a whole batch never exist at once.

At 64k tokens and a vocabulary of 50k the fp32 logits alone are 13 GB. Here a chunk of rows is taken from hidden
states to loss and straight on to the gradients of the hidden states and of the head's matrix, while its logits are at
hand: no logits are kept for the backward pass and none are computed twice (as in Liger Kernel's fused linear cross
entropy, Hsu et al. 2024). The cost: one fp32 buffer of the size of the head's matrix between forward and backward,
and no second derivative.

The loss is divided by the number of slots, ignored ones included: a constant, so that accumulation, ranks and padding
weigh every target alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

IGNORE = -100
MAX_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}  # values of one chunk: 64 MiB and 1 GiB in fp32

# logits [n, V], targets int64 [n], z_loss -> loss fp32 [n], gradient [n, V] in the logits' dtype
RowLoss = Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of matrix products with x: autocast's where it is on, else x's own."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else x.dtype


def row_loss(logits: torch.Tensor, targets: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each row (0 where ignored), and its gradient.

    The loss is the negative log-likelihood in nats plus `z_loss` times the squared log-normaliser (PaLM, Chowdhery et
    al. 2022, section 5). Pointwise but for one sum in each row, so that a compiler fuses it.
    """
    keep = targets != IGNORE
    index = torch.where(keep, targets, 0)[:, None]
    wide = logits.float()
    log_p = F.log_softmax(wide, 1)
    nll = -log_p.gather(1, index)[:, 0]
    normaliser = wide.gather(1, index)[:, 0] + nll
    loss = torch.where(keep, nll + z_loss * normaliser.square(), 0)
    scale = torch.where(keep, 1 + 2 * z_loss * normaliser, 0)
    # The target's entry is p * scale - 1: rounded once, from fp32, so it keeps its digits where p is near 1.
    entry = torch.where(keep, (-nll).exp() * scale - 1, 0)
    gradient = log_p.exp_().mul_(scale[:, None]).to(logits.dtype)
    return loss, gradient.scatter_(1, index, entry.to(logits.dtype)[:, None])


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, z_loss: float = 0.0, rows: RowLoss = row_loss
) -> torch.Tensor:
    """Mean loss over all slots, a fp32 scalar, of logits hidden [N, d] x weight [V, d] against targets int64 [N].

    `rows` is `row_loss` or a compiled form of it.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets, z_loss, compute_dtype(hidden), rows)
    nll, normaliser = _evaluate(hidden, weight, targets)
    return (nll + torch.where(targets != IGNORE, z_loss * normaliser.square(), 0)).mean()


@torch.no_grad()
def token_nll(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target, nats, fp32 [N], 0 where ignored; only wanted rows are computed."""
    wanted = (targets != IGNORE).nonzero().flatten()
    nll = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    nll[wanted] = _evaluate(hidden[wanted], weight, targets[wanted])[0]
    return nll


def _chunks(count: int, vocab_size: int, device: torch.device) -> list[slice]:
    """Pieces of `count` rows, equal where up to twice as many pieces allow it: one shape is one compiled kernel."""
    most = max(1, MAX_LOGITS["cpu" if device.type == "cpu" else "cuda"] // vocab_size)
    fewest = max(1, -(-count // most))
    pieces = next((n for n in range(fewest, 2 * fewest + 1) if count % n == 0), fewest)
    size = max(1, -(-count // pieces))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _evaluate(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood (0 where ignored) and log-normaliser of each row, fp32 [N], without gradients."""
    nll = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
    normaliser = torch.zeros_like(nll)
    dtype = compute_dtype(hidden)
    hidden, weight = hidden.detach().to(dtype), weight.detach().to(dtype)
    for piece in _chunks(len(targets), len(weight), hidden.device):
        logits = F.linear(hidden[piece], weight).float()
        nll[piece] = F.cross_entropy(logits, targets[piece], ignore_index=IGNORE, reduction="none")
        normaliser[piece] = logits.logsumexp(1)
    return nll, normaliser


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total fp32 += left x right; the sum stays fp32 where the factors are 16 bits, and on a GPU in the product."""
    if left.device.type == "cuda" and left.dtype != torch.float32:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, z_loss: float,
        dtype: torch.dtype, rows: RowLoss,
    ) -> torch.Tensor:  # fmt: skip
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for_hidden = torch.empty_like(hidden, dtype=dtype) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        states, matrix = hidden.to(dtype), weight.to(dtype)
        for piece in _chunks(len(targets), len(weight), hidden.device):
            loss, gradient = rows(F.linear(states[piece], matrix), targets[piece], z_loss)
            total += loss.sum()
            if for_hidden is not None:
                torch.mm(gradient, matrix, out=for_hidden[piece])
            if for_weight is not None:
                _add_product(for_weight, gradient.t(), states[piece])
        ctx.slots, ctx.dtype = max(1, len(targets)), hidden.dtype
        ctx.save_for_backward(for_hidden, for_weight)
        return total / ctx.slots

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        for_hidden, for_weight = ctx.saved_tensors
        scale = grads[0] / ctx.slots
        # In place: a second backward pass through the same graph is refused by autograd, as the buffers changed.
        for_hidden = None if for_hidden is None else for_hidden.mul_(scale).to(ctx.dtype)
        return for_hidden, None if for_weight is None else for_weight.mul_(scale), None, None, None, None
