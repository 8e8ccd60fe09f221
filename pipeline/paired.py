"""Differences of two models on the same probe items, and whether they are more than noise.

Items differ far more from each other than two models do on one item, and that part cancels when each item is
compared with itself: a paired difference is several times sharper than the difference of two means. Its interval
is Student's over the items: on a handful of them little is outside noise, as it should be. It tells what other items
would show; what another seed of the training would show, it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import TamisError

FOLDER = "probe-items"  # RUN/probe-items/step-<step>.parquet
HEADLINE = "bits_per_byte"  # lower is better, of every other metric more is
METRICS = (HEADLINE, "norm_correct_prob", "norm_correct_prob_per_char", "acc", "acc_norm", "acc_uncond")
NORMAL = 1.959963984540054  # 97.5 % of the normal distribution
SHOWN = 3  # items named when two sets differ


@dataclass(frozen=True)
class Scored:
    """The items of a task in the order of their ids, and the metrics of each: float64 [items] by name."""

    label: str
    items: dict[str, str]  # id to digest of everything that was asked
    metrics: dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Means of a metric in two runs, and the mean of `after - before` over the items with a 95 % interval."""

    metric: str
    before: float
    after: float
    change: float
    error: float  # standard error of `change`
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Does the interval hold zero?"""
        return self.low <= 0 <= self.high

    @property
    def better(self) -> bool | None:
        """Is `after` the better one? None inside noise."""
        return None if self.noise else (self.change < 0) == (self.metric == HEADLINE)


def path_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step}.parquet"


def read(path: Path) -> dict[str, Scored]:
    """Item scores by task. Raises TamisError for a file that is not one of item scores."""
    try:
        table = pq.read_table(path)
        tasks = table["task"].cast(pa.string())
        found = {}
        for task in sorted(set(tasks.to_pylist())):
            rows = table.filter(pc.equal(tasks, task)).sort_by("id")
            values = {name: rows[name].to_numpy() for name in METRICS if rows[name].null_count == 0}
            items = dict(zip(rows["id"].to_pylist(), rows["digest"].to_pylist(), strict=True))
            found[task] = Scored(str(rows["label"][0]), items, values)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise TamisError(f"{path}: expected the item scores of a probe round, found {error}") from None
    return found


def disagreement(before: Scored, after: Scored) -> str | None:
    """What keeps the items of a task from being compared one by one; None where nothing does."""
    sizes = f"{len(before.items):,} items and {len(after.items):,}"
    only = [sorted(a.items.keys() - b.items.keys()) for a, b in ((before, after), (after, before))]
    if only[0] or only[1]:
        named = [f"{len(ids):,} only in {side} ({', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''})"
                 for side, ids in zip(("A", "B"), only, strict=True) if ids]  # fmt: skip
        return f"{sizes}: {'; '.join(named)}"
    other = [name for name, digest in before.items.items() if after.items[name] != digest]
    if other:
        more = ", ..." if len(other) > SHOWN else ""
        return f"{len(other):,} items are worded otherwise ({', '.join(other[:SHOWN])}{more})"
    return None


def differences(before: Scored, after: Scored) -> list[Difference]:
    """The metrics that both have, over the same items."""
    found = []
    for name in METRICS:
        if name in before.metrics and name in after.metrics:
            one, two = before.metrics[name], after.metrics[name]
            n = len(one)
            error = float((two - one).std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
            found.append(interval(name, float(one.mean()), float(two.mean()), error, n - 1))
    return found


def mean(found: Sequence[tuple[Difference, int]]) -> Difference:
    """The mean of differences over independent sets of so many items, each set counted once; degrees of freedom by
    Welch (1947)."""
    before, after = (sum(getattr(one, name) for one, _ in found) / len(found) for name in ("before", "after"))
    error = math.hypot(*(one.error for one, _ in found)) / len(found)
    terms = [(one.error / len(found)) ** 4 / (size - 1) for one, size in found if size > 1]
    known = len(terms) == len(found) and sum(terms) > 0
    freedom = error**4 / sum(terms) if known else min(size for _, size in found) - 1
    return interval(found[0][0].metric, before, after, error, freedom)


def interval(metric: str, before: float, after: float, error: float, freedom: float) -> Difference:
    """A difference with Student's interval of so many degrees of freedom; without any it is infinite."""
    change = after - before
    reach = student(freedom) * error if error else 0.0
    return Difference(metric, before, after, change, error, change - reach, change + reach)


def student(freedom: float) -> float:
    """97.5 % of Student's distribution: exact for 1 and 2 degrees of freedom, else the expansion about the normal one
    (Abramowitz and Stegun 1964, 26.7.5), within 0.2 %."""
    if freedom < 3:
        return (math.inf, 12.706204736432095, 4.302652729911275)[int(freedom)]
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def unpaired(before: float, after: float, before_error: float, after_error: float) -> Difference:
    """The difference of two means on items that need not be the same, with a normal interval."""
    return interval(HEADLINE, before, after, math.hypot(before_error, after_error), math.inf)
