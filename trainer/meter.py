"""Speed, utilisation, memory and data wait between two rows of the log.

Time is counted from the end of one step to the end of another; evaluations and checkpoints are paused out of it.
MFU is the share of the ranks' peak FLOPs, with the FLOPs of a token as in PaLM (see `trainer.shape`).
"""

from __future__ import annotations

import time
from typing import Any

from trainer.hardware import Peak, used_memory


class Meter:
    """Counts optimizer steps of `tokens` each and `flops` a token on `ranks` devices."""

    def __init__(self, tokens: int, flops: int, ranks: int, peak: Peak) -> None:
        self._tokens, self._flops, self._ranks, self._peak = tokens, flops, ranks, peak
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0
        self._latest: dict[str, Any] = {}

    def step(self, wait_s: float) -> dict[str, Any]:
        """After a step, with the reader's waiting time so far: the numbers since the last `restart`."""
        self._steps += 1
        spent = max(1e-9, time.perf_counter() - self._since)
        speed = self._steps * self._tokens / spent
        flops = speed * self._flops / self._ranks
        self._latest = {
            "tokens_per_s": round(speed, 1),
            "mfu": round(flops / self._peak.flops, 4),
            "mfu_of_measured": round(flops / self._peak.measured, 4),
            "memory_bytes": used_memory(),
            "data_wait": round((wait_s - self._waited) / spent, 5),
        }
        return self._latest

    def restart(self, wait_s: float) -> None:
        """Begin a new window, after a row was written."""
        self._since, self._steps, self._waited = time.perf_counter(), 0, wait_s

    def skip(self, seconds: float) -> None:
        """Leave out time that no step took."""
        self._since += seconds
