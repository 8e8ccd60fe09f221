"""Differences of bits per byte on the held-out text that two evaluations share, and whether they are noise.

The trainer scores pieces of held-out documents and keeps each score. Two evaluations share a piece where document,
place and digest agree: the same text under the same tokenizer. Over n documents with shared pieces, document i with
b_i bytes and a change of d_i bits (the sum over its pieces of (nll after - nll before) / ln 2), the difference of the
two ratios is itself a ratio, since the bytes are the same on both sides:

    D = sum d_i / sum b_i        error = sqrt(n / (n - 1) * sum (d_i - D b_i)^2) / sum b_i

by the delta method (Cochran, Sampling Techniques, 1977, section 2.11). Documents are the units: the pieces of one are
not independent. The interval is Student's with n - 1 degrees of freedom. It tells what other held-out documents would
show; what another seed of the training would show, it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import TamisError
from pipeline.paired import HEADLINE, Difference, interval

FOLDER = "validation-items"  # RUN/validation-items/step-<step>.parquet


@dataclass(frozen=True)
class Pieces:
    """The scores of a source: (document id, first token, digest) of each piece, and its place in the arrays."""

    places: dict[tuple[str, int, str], int]
    nats: np.ndarray  # float64 [pieces], summed negative log-likelihood
    bytes: np.ndarray  # float64 [pieces]


@dataclass(frozen=True)
class Pairing:
    """What two evaluations of a source share. `difference` is None below two documents: there is no error then."""

    sequences: tuple[int, int]  # of each side
    shared: int
    documents: int  # with shared sequences
    bytes: float  # shared
    difference: Difference | None


def path_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step}.parquet"


def read(path: Path) -> dict[str, Pieces]:
    """Scores by source. Raises TamisError for a file that is not one of validation scores."""
    try:
        table = pq.read_table(path)
        sources = table["source"].cast(pa.string())
        found = {}
        for source in sorted(set(sources.to_pylist())):
            rows = table.filter(pc.equal(sources, source))
            keys = zip(*(rows[name].to_pylist() for name in ("doc_id", "first", "digest")), strict=True)
            numbers = (rows[name].cast(pa.float64()).to_numpy() for name in ("nll", "bytes"))
            found[source] = Pieces({key: row for row, key in enumerate(keys)}, *numbers)
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise TamisError(f"{path}: expected the scores of validation sequences, found {error}") from None
    return found


def pair(before: Pieces, after: Pieces) -> Pairing:
    """The difference `after - before` over the pieces that both have."""
    shared = sorted(before.places.keys() & after.places.keys())
    names = sorted({key[0] for key in shared})
    number = {name: at for at, name in enumerate(names)}
    document = np.array([number[key[0]] for key in shared], np.int64)
    left, right = ([side.places[key] for key in shared] for side in (before, after))
    weights = before.bytes[left], before.nats[left] / math.log(2), after.nats[right] / math.log(2)
    size, one, two = (np.bincount(document, values, len(names)) for values in weights)
    change = ratio_difference(one, two, size) if len(names) > 1 else None
    return Pairing((len(before.places), len(after.places)), len(shared), len(names), float(size.sum()), change)


def ratio_difference(before: np.ndarray, after: np.ndarray, size: np.ndarray) -> Difference:
    """sum(after) / sum(size) - sum(before) / sum(size) over two or more units, float64 [units] each."""
    total, n = float(size.sum()), len(size)
    change = float((after - before).sum()) / total
    residuals = after - before - change * size
    error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / total
    return interval(HEADLINE, float(before.sum()) / total, float(after.sum()) / total, error, n - 1)


def together(found: Mapping[str, Pairing], weights: Mapping[str, float]) -> Difference | None:
    """The weighted mean of the sources' differences, each a stratum of its own; None unless all have an error.

    With `Pairing.bytes` as weights it is the ratio over all that is shared.
    """
    known = {source: one.difference for source, one in found.items() if one.difference is not None}
    total = sum(weights.get(source, 0.0) for source in found)
    if not known or len(known) < len(found) or total <= 0:
        return None
    share = {source: weights.get(source, 0.0) / total for source in known}
    before, after = (
        sum(share[source] * getattr(one, name) for source, one in known.items()) for name in ("before", "after")
    )
    error = math.hypot(*(share[source] * one.error for source, one in known.items()))
    return interval(HEADLINE, before, after, error, sum(one.documents - 1 for one in found.values()))
