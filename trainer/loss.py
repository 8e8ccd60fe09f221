"""Cross entropy in chunks: the logits of a whole batch never exist at once.

At 64k tokens and a vocabulary of 50k the fp32 logits alone are 13 GB. Here at most `MAX_LOGITS` of them exist;
a batch that needs more is cut, and each piece is computed again in the backward pass: about a third more work
in the head for a bounded memory. A batch that fits is computed once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORE = -100
MAX_LOGITS = 1 << 26  # fp32 values, 256 MiB


def token_nll(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Negative log-likelihood (nats, fp32, shape [N]) of `targets` (int64 [N]) from `hidden` ([N, d])."""

    def piece(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(states).float(), wanted, reduction="none")

    rows = max(1, MAX_LOGITS // vocab_size)
    if len(hidden) <= rows:
        return piece(hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(piece, states, wanted, use_reentrant=False) for states, wanted in parts])
    return torch.cat([piece(states, wanted) for states, wanted in parts])
