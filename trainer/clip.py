"""The norm of the gradient of the whole model, and clipping by it, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from trainer.topology import Axis


def clip_gradients(parameters: Iterable[torch.nn.Parameter], limit: float, tensor: Axis) -> torch.Tensor:
    """Scale the gradients to a norm of at most `limit` (0: leave them); the norm before, a fp32 scalar.

    A parameter cut over the tensor ranks counts with all of its pieces, any other once. The gradients must be summed
    over the data ranks already.
    """
    with_grad = [p for p in parameters if p.grad is not None]
    cut = [p.grad for p in with_grad if p.grad is not None and getattr(p, "model_parallel", False)]
    rest = [p.grad for p in with_grad if p.grad is not None and not getattr(p, "model_parallel", False)]
    norm = get_total_norm(rest, foreach=True)
    if cut:
        pieces = get_total_norm(cut, foreach=True).square()
        norm = (norm.square() + tensor.sum_(pieces)).sqrt()
    if limit:
        clip_grads_with_norm_(with_grad, limit, norm, foreach=True)
    return norm
