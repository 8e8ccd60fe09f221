"""Differences of two models on the same probe items, and whether they are more than noise.

Items differ far more from each other than two models do on one item, and that part cancels when each item is
compared with itself: a paired difference is several times sharper than the difference of two means. Its interval
is the percentile bootstrap over items (Efron and Tibshirani 1993): resampled with a fixed seed, so the same runs give
the same numbers. It tells what other items would show; what another seed of the training would show, it cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TamisError

FOLDER = "probe-items"  # RUN/probe-items/step-<step>.parquet
HEADLINE = "bits_per_byte"  # lower is better, of every other metric more is
METRICS = (HEADLINE, "norm_correct_prob", "norm_correct_prob_per_char", "acc", "acc_norm", "acc_uncond")
RESAMPLES, CHUNK, SEED = 2000, 250, 0
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
            rows = table.filter(pa.compute.equal(tasks, task)).sort_by("id")
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


def differences(before: Scored, after: Scored, seed: int = SEED) -> tuple[list[Difference], np.ndarray]:
    """The metrics that both have; and the resampled changes of the headline, float64 [RESAMPLES]."""
    names = [name for name in METRICS if name in before.metrics and name in after.metrics]
    changes = np.stack([after.metrics[name] - before.metrics[name] for name in names], 1)
    sampled = resample(changes, seed)
    low, high = np.percentile(sampled, [2.5, 97.5], axis=0)
    n = len(changes)
    errors = changes.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.full(len(names), math.nan)
    found = [
        Difference(name, float(before.metrics[name].mean()), float(after.metrics[name].mean()),
                   float(changes[:, at].mean()), float(errors[at]), float(low[at]), float(high[at]))
        for at, name in enumerate(names)
    ]  # fmt: skip
    return found, sampled[:, names.index(HEADLINE)]


def resample(values: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Means of RESAMPLES draws of the rows with replacement: float64 [RESAMPLES, columns] of values [rows, columns]."""
    rng, n = np.random.default_rng(seed), len(values)
    out = []
    for _ in range(RESAMPLES // CHUNK):
        drawn = rng.integers(0, n, (CHUNK, n)) + np.arange(CHUNK)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=CHUNK * n).reshape(CHUNK, n)
        out.append(counts @ values / n)
    return np.concatenate(out)


def unpaired(before: float, after: float, before_error: float, after_error: float) -> Difference:
    """The difference of two means on items that need not be the same, with a normal interval."""
    error = math.hypot(before_error, after_error)
    change = after - before
    return Difference(HEADLINE, before, after, change, error, change - 1.96 * error, change + 1.96 * error)
