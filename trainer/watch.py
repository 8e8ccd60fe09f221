"""Watching the loss: a loss that is no number ends the run, a spike is reported, and both name their documents.

A spike is a loss more than `spike` standard deviations above the mean of the last WINDOW losses. The deviation is
that of the recent losses about their own trend (a parabola): while a model still learns fast, the fall
itself would hide a spike. A report costs a pass over the index to find the documents, nothing is kept for it.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.rundir import TrainingError, publish_text

WINDOW, FEWEST = 32, 16
SMALLEST = 1e-3  # of the mean loss: the least deviation assumed, so that a flat loss is not all spikes

# The documents of an optimizer step (from 1) in batch order: {"doc_id": ..., "sequence": ..., "tokens": ..., ...}
Documents = Callable[[int], list[dict[str, Any]]]


@dataclass(frozen=True)
class Spike:
    """A step whose loss is `deviations` standard deviations above `expected`."""

    step: int
    loss: float
    expected: float
    deviations: float


class Watch:
    """The recent losses, and what is out of the ordinary. `threshold` 0 reports no spikes."""

    def __init__(self, threshold: float, recent: Iterable[float] = ()) -> None:
        self.threshold = threshold
        self._recent: deque[float] = deque(recent, WINDOW)

    def see(self, step: int, loss: float) -> Spike | None:
        """Take in the loss of a step; a Spike if it stands out from the losses before it."""
        found = self._compare(step, loss) if self.threshold and len(self._recent) >= FEWEST else None
        self._recent.append(loss)
        return found

    def _compare(self, step: int, loss: float) -> Spike | None:
        recent = np.array(self._recent)
        at = np.arange(len(recent)) - len(recent)
        trend = np.polyfit(at, recent, 2)
        expected = max(float(trend[-1]), float(recent.min()))
        deviation = max(float(np.std(recent - np.polyval(trend, at))), SMALLEST * abs(expected), 1e-12)
        deviations = float(loss - expected) / deviation
        return Spike(step, loss, expected, deviations) if deviations > self.threshold else None


def is_number(loss: float, norm: float, scaled: bool) -> bool:
    """Whether a step went well. With loss scaling (`scaled`, fp16) an overflow of the norm is a skipped step."""
    return math.isfinite(loss) and (math.isfinite(norm) or scaled)


def report(folder: Path, step: int, kind: str, numbers: dict[str, Any], documents: list[dict[str, Any]]) -> Path:
    """Write `spikes/step-N.json` with the documents of the step; numbers that are not finite become text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}.json"
    shown = {key: value if not isinstance(value, float) or math.isfinite(value) else str(value)
             for key, value in numbers.items()}  # fmt: skip
    body = {"step": step, "kind": kind, **shown, "documents": documents}
    publish_text(path, json.dumps(body, indent=1) + "\n")
    return path


def not_a_number(step: int, loss: float, norm: float, path: Path, documents: list[dict[str, Any]]) -> TrainingError:
    """The error that ends the run, naming the report and the first documents."""
    names = list(dict.fromkeys(row["doc_id"] for row in documents))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return TrainingError(
        f"step {step}: the loss is {loss} and the gradient norm {norm}; {path} names the {len(names)} documents of "
        f"the batch ({', '.join(names[:3])}{more}), `tamis batch {path.parents[1]} {step}` shows their URLs: where "
        "they are as they should be, lower train.lr; the last checkpoint is unharmed"
    )
