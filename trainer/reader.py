"""The trainer's reader: batches of one data rank, step by step, made ahead of time on a thread.

A batch is a pure function of (index, configuration, step): nothing is remembered between steps, so a run resumes at
any step and at any number of data ranks, and sees each sequence once an epoch. Micro batch g of data rank r is the
rows `(g * ranks + r) * n` to `+ n` of the step's global batch. Rows are gathered from the mapped token file by
compiled loops that release the interpreter; the work overlaps with the training step.

Cost: memory of AHEAD + 1 steps of batches (20 bytes a token); 5 to 10 ns a token on one core.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import TrainConfig
from trainer.loss import IGNORE
from trainer.order import training_order
from trainer.packing import open_packing
from trainer.tokens import DataError, TokenIndex, open_tokens

AHEAD = 2  # steps made before they are asked for


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass: what the model reads and what it is to predict.

    `ids` int64 [rows, T]; `targets` int64 [rows, T], IGNORE where nothing is to be predicted; `segments` int32
    [rows, T], the number of the document within its row (padding is one more), only with `document_mask`.
    """

    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray | None = None


class Reader:
    """Batches of one data rank. Raises DataError when the shards are not what is expected."""

    def __init__(self, index: TokenIndex, config: TrainConfig, cache: Path, data_rank: int, data_ranks: int) -> None:
        if data_ranks != config.data_ranks or not 0 <= data_rank < data_ranks:
            raise DataError(
                f"expected a data rank below the configuration's {config.data_ranks}, found {data_rank} of {data_ranks}"
            )
        self.index, self.config = index, config
        self.data_rank, self.data_ranks = data_rank, data_ranks
        self.tokens, starts = open_tokens(index, "train", cache)
        self.packing = open_packing(index, config, starts, cache)
        self.sizes = self.packing.sizes
        self.size = sum(self.sizes.values())
        self.order = training_order(index, config, self.sizes)
        self.wait_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tamis-reader")
        self._ahead: dict[int, Future[list[Batch]]] = {}

    def step(self, step: int) -> list[Batch]:
        """The micro batches of this rank for optimizer step `step`, counted from 1."""
        asked = time.perf_counter()
        wanted = range(step, min(step + AHEAD, self.config.total_steps) + 1) or range(step, step + 1)
        self._ahead = {number: made for number, made in self._ahead.items() if number in wanted}
        for number in wanted:
            if number not in self._ahead:
                self._ahead[number] = self._thread.submit(self._make, number)
        batches = self._ahead.pop(step).result()
        self.wait_s += time.perf_counter() - asked
        return batches

    def targets(self, step: int) -> int:
        """Targets that are not IGNORE in the whole global batch of a step: the same on every rank."""
        return self.packing.targets(self._numbers(step))

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each source has been read after `steps` steps."""
        taken = self.order.taken(steps * self.config.global_batch)
        if not self.config.mix:
            return {name: taken[""] / self.size for name in self.sizes if self.sizes[name]}
        return {name: count / self.sizes[name] for name, count in taken.items()}

    def facts(self) -> dict[str, float]:
        """`sequences` of an epoch; `padding`, the share of their slots without an input; `cut`, documents longer than
        the context."""
        return self.packing.facts()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _numbers(self, step: int) -> np.ndarray:
        rows = self.config.global_batch
        return self.order.at(np.arange((step - 1) * rows, step * rows))

    def _make(self, step: int) -> list[Batch]:
        rows = self.config.rank_micro_batch
        mine = self._numbers(step).reshape(self.config.accumulation, self.data_ranks, rows)[:, self.data_rank]
        return [self._batch(numbers) for numbers in mine]

    def _batch(self, numbers: np.ndarray) -> Batch:
        shape, masked = (len(numbers), self.config.seq_len), self.config.document_mask
        ids, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        segments = np.empty(shape if masked else (0, shape[1]), np.int32)
        self.packing.fill(self.tokens, numbers, ids, targets, segments, self.index.eos_id, IGNORE)
        return Batch(ids, targets, segments if masked else None)
