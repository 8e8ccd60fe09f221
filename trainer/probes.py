"""Multiple-choice probes by log-likelihood: what a model makes of the right answers, while it trains.

Only `probes/<task>.jsonl` is read. Requests are made once (see `probe_items`), sorted by length, scored in batches
of about `batch_tokens` padded tokens that are dealt out over the ranks, and summed up with standard errors (see
`probe_stats`). A task with a limit uses the items of smallest hash, so every run scores the same subset. The score of
each item is kept (`save_items`), so that two runs compare on the same items: what they have in common cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from trainer.probe_items import ProbeError, Request, Task, read_items, tokenise
from trainer.probe_stats import METRICS, chance, item_metrics, mean_and_error
from trainer.rundir import PROBE_ITEMS

BATCH_TOKENS, GPU_BATCH_TOKENS = 8192, 65536  # padded tokens in a forward pass
IGNORE = -100

# ids int64 [rows, length], targets int64 [rows, length] with IGNORE -> summed log-probability, float64 [rows]
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def batches(requests: Sequence[Request], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Request numbers grouped by similar length, at most `batch_tokens` padded tokens in a group."""
    by_length = sorted(range(len(requests)), key=lambda row: (len(requests[row].ids), row))
    groups: list[list[int]] = []
    for row in by_length:
        if not groups or (len(groups[-1]) + 1) * len(requests[row].ids) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def arrays(requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded inputs and targets; the padding comes after everything scored, so causality hides it."""
    width = max(len(request.ids) for request in requests) - 1
    ids = np.zeros((len(requests), width), np.int64)
    targets = np.full((len(requests), width), IGNORE, np.int64)
    for row, request in enumerate(requests):
        length = len(request.ids) - 1
        ids[row, :length] = request.ids[:-1]
        targets[row, length - request.scored : length] = request.ids[-request.scored :]
    return ids, targets


def turns(groups: int, rank: int, ranks: int) -> Iterator[tuple[int, bool]]:
    """The groups that a rank runs, in order, and whether each counts.

    Every rank runs equally many (a spare turn repeats the last group): sharded parameters are gathered by all
    ranks together.
    """
    for first in range(0, groups, ranks):
        yield min(first + rank, groups - 1), first + rank < groups


def score(requests: Sequence[Request], scorer: Scorer, rank: int = 0, ranks: int = 1,
          batch_tokens: int = BATCH_TOKENS) -> np.ndarray:  # fmt: skip
    """Summed log-probabilities, float64 [requests]; with several ranks, 0 for what the others score."""
    out = np.zeros(len(requests))
    groups = batches(requests, batch_tokens)
    for turn, mine in turns(len(groups), rank, ranks):
        logprobs = scorer(*arrays([requests[row] for row in groups[turn]]))
        if mine:
            out[groups[turn]] = logprobs
    return out


class Probes:
    """All probe tasks of a folder, tokenised once and scored as often as wanted.

    `limit` items of each task (0: all), `max_len` input tokens at most. `batch_tokens`: padded tokens in a forward
    pass. Raises ProbeError for items or a tokenizer that cannot be used.
    """

    def __init__(self, folder: Path, tokenizer_file: Path, limit: int, max_len: int, eos_id: int,
                 batch_tokens: int = BATCH_TOKENS) -> None:  # fmt: skip
        self.tasks: dict[str, Task] = {}
        self.batch_tokens = batch_tokens
        self._scored: list[pa.Table] = []
        paths = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
        if not paths:
            return
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the binding raises a bare Exception
            raise ProbeError(f"{tokenizer_file}: expected a tokenizer, found {error}") from None
        for path in paths:
            label, items = read_items(path, limit)
            task = tokenise(tokenizer, path.stem, label, items, max_len, eos_id)
            if items and not task.items:
                raise ProbeError(
                    f"{path}: expected answers of at most {max_len} tokens, found a longer one in each of "
                    f"{len(items)} items: give the model a longer context (train.seq_len)"
                )
            if task.items:
                self.tasks[path.stem] = task

    def evaluate(self, scorer: Scorer, gather: Callable[[np.ndarray], np.ndarray], rank: int, ranks: int,
                 ) -> list[dict[str, Any]]:  # fmt: skip
        """One row for each task: task, label, n, chance, each metric with `<metric>_stderr`, cut, left_out.

        `gather` adds the arrays of all ranks; every rank gets the same rows. Raises ProbeError for a score that is
        no number.
        """
        rows, scored = [], []
        for task in self.tasks.values():
            found = gather(score(task.requests, scorer, rank, ranks, self.batch_tokens))
            if not np.isfinite(found).all():
                bad = int(np.flatnonzero(~np.isfinite(found))[0])
                raise ProbeError(f"{task.name}: expected log-probabilities, found {found[bad]}: the weights are broken")
            logprobs, prior = found[task.ask], None if task.prior is None else found[task.prior]
            metrics = item_metrics(task.items, logprobs, prior)
            row: dict[str, Any] = {"task": task.name, "label": task.label, "n": len(task.items)}
            for name, values in metrics.items():
                row[name], row[f"{name}_stderr"] = mean_and_error(values)
            rows.append({**row, "chance": chance(task.items), "cut": task.cut, "left_out": task.left_out})
            scored.append(_table(task, metrics, logprobs, prior))
        self._scored = scored
        return rows

    def save_items(self, run: Path, step: int) -> Path:
        """Publish the item scores of the last evaluation as RUN/probe-items/step-<step>.parquet.

        Columns: task, label, id, digest (of all that is asked), gold, the metrics (double, null where the task has
        none), logprobs and prior (nats, one for each choice). One row for each item, about 100 bytes.
        """
        return publish_items(pa.concat_tables(self._scored), run / PROBE_ITEMS, step)


def publish_items(table: pa.Table, folder: Path, step: int) -> Path:
    """Write the scores of an evaluation as `folder`/step-<step>.parquet: whole, or not at all."""
    path = folder / f"step-{step}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
    return path


def _table(task: Task, metrics: dict[str, np.ndarray], logprobs: np.ndarray, prior: np.ndarray | None) -> pa.Table:
    items, n = task.items, len(task.items)
    offsets = pa.array(np.cumsum([0, *(len(item.choices) for item in items)]), pa.int32())
    lists = pa.list_(pa.float64())
    columns: dict[str, Any] = {
        "task": pa.array([task.name] * n).dictionary_encode(),
        "label": pa.array([task.label] * n).dictionary_encode(),
        "id": [item.id for item in items],
        "digest": [item.digest for item in items],
        "gold": pa.array([item.gold for item in items], pa.int16()),
        **{name: pa.array(metrics[name]) if name in metrics else pa.nulls(n, pa.float64()) for name in METRICS},
        "logprobs": pa.ListArray.from_arrays(offsets, pa.array(logprobs)),
        "prior": pa.nulls(n, lists) if prior is None else pa.ListArray.from_arrays(offsets, pa.array(prior)),
    }
    return pa.table(columns)
