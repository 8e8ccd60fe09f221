"""Ending a training in good order: a signal to any rank, or the file `stop` in the run directory, stops all ranks
after the same step.

The ranks agree through a reduction on the CPU that runs beside the step and is read one step later, so that no
device ever waits for it. The cost: a stop takes effect up to two steps after the signal.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.rundir import STOP

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN_S = 1.0  # a signal this long after the first ends the process at once; launchers send several together


class Stop:
    """Takes SIGTERM and SIGINT over while it is in use (`with`). Made by all ranks together."""

    def __init__(self, run: Path) -> None:
        self._file = run / STOP
        self._first = 0.0
        self._before: dict[int, Any] = {}
        self._group = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None
        self._writer = dist.get_rank() == 0
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._work: Any = None

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._work is not None:
            self._work.wait()
            self._work = None

    def _take(self, number: int, _frame: Any) -> None:
        if self._first and time.monotonic() - self._first > AGAIN_S:
            os._exit(128 + number)
        self._first = self._first or time.monotonic()

    def _asked(self) -> bool:
        return bool(self._first) or (self._writer and self._file.exists())

    def agreed(self) -> bool:
        """Whether the ranks stop now. Every rank calls it once for each step and gets the same answer."""
        if self._group is None:
            return self._asked()
        answer = False
        if self._work is not None:
            self._work.wait()
            answer = bool(self._flag.item())
        self._flag.fill_(int(self._asked()))
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return answer

    def forget(self) -> None:
        """Take the stop file away, at the end of a training that it asked to end."""
        if self._writer:
            self._file.unlink(missing_ok=True)
