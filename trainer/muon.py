"""Muon for the matrices of the blocks and AdamW for the rest, as one optimizer.

Muon (Jordan 2024) moves a matrix by its momentum made orthogonal with five Newton-Schulz steps. The work is
torch.optim.Muon's and torch.optim.AdamW's; here they share one list of parameter groups and one state, so that a
schedule and a checkpoint treat them as a single optimizer. A Muon parameter's state is `momentum_buffer`; an AdamW
parameter's `exp_avg`, `exp_avg_sq` and `step`. Updates are scaled by sqrt(max(1, rows / columns)), as in Jordan's own.

Muon needs the whole matrix and its whole, clipped gradient: not a shard of either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch

MOMENTUM = 0.95


class MuonAdamW(torch.optim.Optimizer):
    """Parameter groups with `muon: True` go by Muon, the others by AdamW. Every group states all of its settings."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        muon = [group for group in groups if group["muon"]]
        adamw = [group for group in groups if not group["muon"]]
        self._parts = torch.optim.Muon(muon), torch.optim.AdamW(adamw, fused=True)
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        for part, chosen in zip(self._parts, (True, False), strict=True):
            part.param_groups = [group for group in self.param_groups if group["muon"] is chosen]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share()
        for part in self._parts:
            part.step()
        return loss
