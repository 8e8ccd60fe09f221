"""Validation loss and bits per byte of each source and of all, each with its standard error.

Every evaluation of a run scores the same sequences, `val_limit` of each source, chosen by hash. `loss` is the mean
negative log-likelihood of a target in nats; `bits_per_byte` is that of a byte of text, by the source's own tokens and
bytes in the index. Errors are those of a mean over sequences (see `probe_stats.ratio_and_error`). The numbers of all
sources weigh each by its tokens, or its bytes, in the validation split. Cost: `val_limit` sequences forward for each
source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.loss import IGNORE
from trainer.probe_stats import ratio_and_error
from trainer.probes import turns
from trainer.reader import Batch, Reader

# ids, targets int64 [rows, T], segments int32 [rows, T] or None -> summed log-probability, float64 [rows]
Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
LN2 = math.log(2)


class Validation:
    """The sample of a run, read once: `limit` sequences of each source at most, none for 0."""

    def __init__(self, reader: Reader, limit: int) -> None:
        self._rank, self._ranks = reader.data_rank, reader.data_ranks
        self._batches: list[Batch] = []
        self._rows: dict[str, int] = {}
        self._totals: dict[str, dict[str, int]] = {}
        for source in sorted(reader.sizes) if limit else []:
            batches = reader.sample(source, limit)
            if batches:
                self._batches += batches
                self._rows[source] = sum(len(batch.ids) for batch in batches)
                self._totals[source] = reader.index.sources[source]["validation"]
        self._targets = [(batch.targets != IGNORE).sum(1).astype(np.float64) for batch in self._batches]

    def evaluate(self, scorer: Scorer, gather: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """`val_loss`, `val_bits_per_byte`, their `_stderr`, and `validation` with the same of each source and `n`.

        Collective; `gather` adds the arrays of the data ranks. Empty without validation sequences. An error is None
        where a source has a single sequence.
        """
        if not self._batches:
            return {}
        nll = [np.zeros(len(batch.ids)) for batch in self._batches]
        for turn, mine in turns(len(nll), self._rank, self._ranks):
            batch = self._batches[turn]
            found = -scorer(batch.ids, batch.targets, batch.segments)
            if mine:
                nll[turn] = found
        whole, targets = gather(np.concatenate(nll)), np.concatenate(self._targets)
        sources: dict[str, dict[str, Any]] = {}
        start = 0
        for source, rows in self._rows.items():
            mine_ = slice(start, start := start + rows)
            sources[source] = {"n": rows, **self._source(source, whole[mine_], targets[mine_])}
        return {**self._all(sources), "validation": sources}

    def _source(self, source: str, nll: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
        loss, error = ratio_and_error(nll, targets)
        totals = self._totals[source]
        bits = totals["tokens"] / max(1, totals["text_bytes"]) / LN2  # of a byte, for a nat of each token
        return {
            "loss": loss,
            "loss_stderr": error,
            "bits_per_byte": loss * bits,
            "bits_per_byte_stderr": None if error is None else error * bits,
        }

    def _all(self, sources: dict[str, dict[str, Any]]) -> dict[str, float | None]:
        out: dict[str, float | None] = {}
        for name, unit in (("loss", "tokens"), ("bits_per_byte", "text_bytes")):
            sizes = np.array([self._totals[source][unit] for source in sources], float)
            shares = sizes / max(1.0, sizes.sum())
            errors = [row[f"{name}_stderr"] for row in sources.values()]
            out[f"val_{name}"] = float(shares @ np.array([row[name] for row in sources.values()]))
            known = None not in errors
            out[f"val_{name}_stderr"] = float(math.hypot(*(shares * np.array(errors, float)))) if known else None
        return out
