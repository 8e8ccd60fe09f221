"""From a step and a row back to documents: which tokens of which document stood where in a training batch.

Nothing is recorded while training. The order is a pure function of (index, configuration, step), the packing one of
the documents' lengths, and both are computed again from the shards' `n` columns, or mapped where a reader has left
them; then the ids of the few documents are read. Cost: 8 bytes a document to read, and a row group of each shard
that the step touched.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config import TrainConfig
from trainer.order import training_order
from trainer.packing import Packing, open_packing, packing_files
from trainer.tokens import DataError, Shard, TokenIndex, known_starts


@dataclass(frozen=True)
class Lineage:
    """Looks steps up; opening it costs the packing, a step a few reads."""

    index: TokenIndex
    config: TrainConfig
    starts: np.ndarray  # int64 [documents + 1], first token of each document
    packing: Packing

    @classmethod
    def open(cls, index: TokenIndex, config: TrainConfig, cache: Path | None = None) -> Lineage:
        """`cache` is the folder that a reader was given, `.cache` beside the tokens when it is None. Writes nothing."""
        cache = cache or index.folder.parent / ".cache"
        starts = known_starts(index, "train", cache)
        if packing_files(index, "train", config.seq_len, cache)[-1].exists():
            return cls(index, config, starts, open_packing(index, config, starts, cache))
        with tempfile.TemporaryDirectory() as folder:
            return cls(index, config, starts, open_packing(index, config, starts, Path(folder)))

    def documents(self, step: int, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The documents that optimizer step `step` (from 1) read, row by row: all of the global batch, or `rows`.

        Each entry is a run of input tokens of one document: `row` (in the global batch), `rank` and `micro_batch` (at
        the configuration's number of data ranks), `slot` (of its first token in the row), `tokens`, `first` (number of
        its first token in the document), `doc_id`, `source`, `shard`, `sequence`. Raises DataError for a step or row
        that is not there.
        """
        config, size = self.config, self.config.global_batch
        wanted = list(range(size) if rows is None else rows)
        if step < 1 or any(not 0 <= row < size for row in wanted):
            raise DataError(f"expected a step from 1 and rows from 0 to {size - 1}, found step {step}, rows {wanted}")
        order = training_order(self.index, config, self.packing.sizes)
        numbers = order.at(np.array([(step - 1) * size + row for row in wanted], np.int64))
        found: list[dict[str, Any]] = []
        documents: list[int] = []
        for row, sequence in zip(wanted, numbers.tolist(), strict=True):
            turn = row // config.rank_micro_batch
            place = {"row": row, "rank": turn % config.data_ranks, "micro_batch": turn // config.data_ranks}
            for document, slot, first, tokens in self._runs(sequence):
                documents.append(document)
                found.append({**place, "slot": slot, "tokens": tokens, "first": first, "sequence": sequence})
        for entry, name in zip(found, self._names(documents), strict=True):
            entry |= name
        return found

    def _runs(self, sequence: int) -> list[tuple[int, int, int, int]]:
        """(document, slot, first token in the document, tokens) of each run of a sequence."""
        runs, slot = [], 0
        for start, length in self.packing.pieces(sequence):
            at = start
            while at < start + length:
                document = int(np.searchsorted(self.starts, at, "right")) - 1
                end = min(start + length, int(self.starts[document + 1]))
                runs.append((document, slot, at - int(self.starts[document]), end - at))
                slot, at = slot + end - at, end
        return runs

    def _names(self, documents: list[int]) -> list[dict[str, str]]:
        """doc_id, source and shard of each document number."""
        shards = self.index.split("train")
        firsts = [shard.first_row for shard in shards]
        by_shard: dict[int, set[int]] = {}
        for document in documents:
            by_shard.setdefault(bisect_right(firsts, document) - 1, set()).add(document)
        found: dict[int, dict[str, str]] = {}
        for number, wanted in by_shard.items():
            shard = shards[number]
            for document, name in _ids(shard, sorted(wanted)).items():
                found[document] = {"doc_id": name, "source": shard.source, "shard": shard.path.name}
        return [found[document] for document in documents]


def _ids(shard: Shard, documents: list[int]) -> dict[int, str]:
    """Ids of documents of a shard, reading only their row groups. DataError when it cannot be read."""
    found: dict[int, str] = {}
    at = shard.first_row
    try:
        with pq.ParquetFile(shard.path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                inside = [document for document in documents if at <= document < at + count]
                if inside:
                    ids = file.read_row_group(group, columns=["doc_id"])["doc_id"]
                    found |= {document: ids[document - at].as_py() for document in inside}
                at += count
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{shard.path}: cannot read the shard: {' '.join(str(error).split())}") from None
    return found


def documents_of_step(index: TokenIndex, config: TrainConfig, step: int) -> list[dict[str, Any]]:
    """The documents of one step, in batch order: see `Lineage.documents`."""
    return Lineage.open(index, config).documents(step)
