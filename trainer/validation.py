"""Validation loss and bits per byte of each source and of all, each with its standard error.

Every evaluation of a run scores the same pieces of held-out documents, `val_limit` of each source (see `held_out`).
`loss` is the mean negative log-likelihood of a target in nats; `bits_per_byte` is the sum of it over the sample by the
bytes of its text. Errors are those of a ratio over documents (see `probe_stats.ratio_and_error`): the pieces of one
document are not independent. The numbers of all sources weigh each by its tokens, or its bytes, in the validation
split. The score of each piece is kept (`save_items`), so that two runs compare on the text that both validated. Cost:
the tokens of the sample forward, in batches of similar length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.config import TrainConfig
from trainer.held_out import Piece, held_out
from trainer.probe_items import Request
from trainer.probe_stats import bits_per_byte, ratio_and_error
from trainer.probes import BATCH_TOKENS, Scorer, publish_items, score
from trainer.rundir import VALIDATION_ITEMS
from trainer.tokens import TokenIndex


class Validation:
    """The sample of a run, read once. `rank` of `ranks` copies of the model; `batch_tokens`: padded tokens in a
    forward pass. Raises DataError when the shards are not what is expected."""

    def __init__(self, index: TokenIndex, cache: Path, config: TrainConfig, rank: int, ranks: int,
                 batch_tokens: int = BATCH_TOKENS) -> None:  # fmt: skip
        self._rank, self._ranks, self._batch_tokens = rank, ranks, batch_tokens
        sample = held_out(index, cache, config.val_limit, config.seq_len)
        self._pieces: list[Piece] = [piece for pieces in sample.values() for piece in pieces]
        self._requests = [Request(piece.ids, piece.targets) for piece in self._pieces]
        self._sizes = {source: len(pieces) for source, pieces in sample.items()}
        self._totals = {source: index.sources[source]["validation"] for source in sample}
        self._tokenizer = index.fingerprint
        self._nll = np.zeros(0)

    def evaluate(self, scorer: Scorer, gather: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """`val_loss`, `val_bits_per_byte`, their `_stderr`, and `validation` with the same of each source, `n`
        sequences and `documents`.

        Collective; `gather` adds the arrays of the data ranks. Empty without validation documents. An error is None
        where a source has a single document.
        """
        if not self._pieces:
            return {}
        self._nll = -gather(score(self._requests, scorer, self._rank, self._ranks, self._batch_tokens))
        sources: dict[str, dict[str, Any]] = {}
        start = 0
        for source, size in self._sizes.items():
            mine = slice(start, start := start + size)
            sources[source] = _numbers(self._pieces[mine], self._nll[mine])
        return {**self._all(sources), "validation": sources}

    def save_items(self, run: Path, step: int) -> None:
        """Publish the scores of the last evaluation as RUN/validation-items/step-<step>.parquet; nothing without any.

        Columns: source, doc_id, first (number of the first token in its document), digest (of tokenizer, ids and
        bytes), nll (nats, double), targets, bytes (double). The tokenizer's fingerprint is in the metadata. One row
        for each sequence, some 60 bytes.
        """
        if not self._pieces:
            return
        columns: dict[str, Any] = {
            "source": pa.array([piece.source for piece in self._pieces]).dictionary_encode(),
            "doc_id": [piece.doc_id for piece in self._pieces],
            "first": pa.array([piece.first for piece in self._pieces], pa.int64()),
            "digest": [piece.digest for piece in self._pieces],
            "nll": pa.array(self._nll),
            "targets": pa.array([piece.targets for piece in self._pieces], pa.int32()),
            "bytes": pa.array([piece.bytes for piece in self._pieces], pa.float64()),
        }
        publish_items(pa.table(columns, metadata={"tokenizer": self._tokenizer}), run / VALIDATION_ITEMS, step)

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


def _numbers(pieces: list[Piece], nll: np.ndarray) -> dict[str, Any]:
    """The row of a source."""
    names, document = np.unique([piece.doc_id for piece in pieces], return_inverse=True)
    nats, targets, size = (
        np.bincount(document, values, len(names))
        for values in (nll, [piece.targets for piece in pieces], [piece.bytes for piece in pieces])
    )
    loss, loss_error = ratio_and_error(nats, targets)
    bits, bits_error = bits_per_byte(nats, size)
    return {
        "n": len(pieces),
        "documents": len(names),
        "loss": loss,
        "loss_stderr": loss_error,
        "bits_per_byte": bits,
        "bits_per_byte_stderr": bits_error,
    }
