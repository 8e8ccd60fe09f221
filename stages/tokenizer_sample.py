"""The documents that a tokenizer is trained on and those that it is measured on, chosen by hash and stated shares.

1. A share of the documents, by hash, is held out.
2. Of the others, one host gives at most `max_host_share` of `sample_bytes`: of a larger one those that hash lowest.
3. The budget is divided among the values of the first column of `balance`, each part among the values of the second
   within it, and so on. A value gets the share that is stated for it; the rest goes to the values without one, in
   proportion to bytes^alpha: alpha 1 leaves the sizes as they are, 0 makes them equal, .3 is what XLM-R used for
   languages (Conneau et al. 2020, section 3.1). What a value cannot fill goes to its siblings by the same weights.
4. All groups fill at the pace of their quotas until `sample_bytes` is reached. Within a group the documents come in
   the order of a hash; where a quota ends inside one, a second hash draws whether it comes, so that a thousand small
   groups do not each get a whole document more than they should.

No order of the rows enters. Cost: 24 bytes a document and its host and group names in memory, one sort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pipeline.stage import Corpus, Params, unit_hash

SHOWN = 20  # values of a column in the report


class Balance(Params):
    """How the budget is divided among the values of one column."""

    column: str = Field(description="kind, domain, source, host, or a column of a stage, as langid.language")
    alpha: float = Field(0.5, ge=0, le=1, description="share of a value is proportional to its bytes to this power")
    shares: dict[str, float] = Field({}, description="stated shares of values; the others divide what is left by alpha")

    @field_validator("shares")
    @classmethod
    def _sum(cls, shares: dict[str, float]) -> dict[str, float]:
        if any(share < 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"expected shares from 0 to 1 that sum to at most 1, found {shares}")
        return shares


class SampleParams(Params):
    """The part of a tokenizer's parameters that chooses documents."""

    sample_bytes: int = Field(256_000_000, ge=1, description="UTF-8 bytes of text to train on; one document may exceed")
    balance: tuple[Balance, ...] = Field(
        (Balance(column="kind"), Balance(column="domain")),
        description="columns that the sample is balanced by, each within the one before; [] for the corpus as it is",
    )
    max_host_share: float = Field(0.05, gt=0, le=1, description="of sample_bytes, from one host at most")
    held_out_fraction: float = Field(0.02, ge=0, lt=1, description="of documents, kept out of the sample to measure on")
    held_out_bytes: int = Field(8_000_000, ge=0, description="UTF-8 bytes of held-out text to measure on, at most")

    @field_validator("balance")
    @classmethod
    def _distinct(cls, balance: tuple[Balance, ...]) -> tuple[Balance, ...]:
        names = [entry.column for entry in balance]
        if len(set(names)) != len(names):
            raise ValueError(f"expected each column once, found {names}")
        return balance


@dataclass(frozen=True)
class Documents:
    """What is known of each live document, in corpus order."""

    held_out: np.ndarray  # float64 hashes in [0, 1)
    rank: np.ndarray  # float64, of the order within a group
    draw: np.ndarray  # float64, of the document in which a quota ends
    sizes: np.ndarray  # int64 UTF-8 bytes
    groups: dict[str, pa.DictionaryArray]  # column -> value of each document, "" where there is none


@dataclass(frozen=True)
class Sample:
    """Masks over the documents of the corpus, and what was left to the cap."""

    train: np.ndarray  # bool
    held_out: np.ndarray  # bool
    capped: int  # documents that were left out because their host had given its share


def survey(corpus: Corpus, columns: tuple[str, ...], seed: int) -> Documents:
    """One pass over sizes, hashes and the named columns. A corpus without documents gives empty arrays."""
    hashes: list[list[np.ndarray]] = [[], [], []]
    sizes: list[np.ndarray] = []
    values: dict[str, list[pa.Array]] = {column: [] for column in columns}
    for batch in corpus.batches(*dict.fromkeys(("doc_id", "text", *columns))):
        for found, salt in zip(hashes, ("held-out", "sample", "draw"), strict=True):
            found.append(unit_hash(batch["doc_id"], seed, f"tokenizer/{salt}"))
        sizes.append(np.asarray(pc.fill_null(pc.binary_length(batch["text"]), 0)).astype(np.int64))
        for column in columns:
            values[column].append(pc.fill_null(_text(batch[column], column), "").dictionary_encode())
    names = pa.dictionary(pa.int32(), pa.string())
    groups = {
        column: pa.chunked_array(found, names).unify_dictionaries().combine_chunks() for column, found in values.items()
    }
    held_out, rank, draw = (np.concatenate([*found, np.zeros(0)]) for found in hashes)
    return Documents(held_out, rank, draw, np.concatenate([*sizes, np.zeros(0, np.int64)]), groups)


def _text(array: pa.Array, column: str) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not pa.types.is_string(array.type):
        raise ValueError(f"train_tokenizer: expected columns of text in `balance`, found {column} of {array.type}")
    return array


def choose(docs: Documents, params: SampleParams) -> Sample:
    """The sample and the held-out documents."""
    sizes = docs.sizes
    mask = docs.held_out < params.held_out_fraction
    order = np.lexsort((docs.draw, docs.rank))
    held_out = np.zeros(len(sizes), bool)
    measured = order[mask[order]]
    held_out[measured[_before(sizes[measured]) < params.held_out_bytes]] = True

    candidates = order[~mask[order] & (sizes[order] > 0)]
    by_host, start = _grouped(candidates, [_codes(docs.groups["host"])])
    within = _before(sizes[by_host]) - _before(sizes[by_host])[start]
    allowed = np.zeros(len(sizes), bool)
    allowed[by_host[within < params.max_host_share * params.sample_bytes]] = True

    rows, start = _grouped(candidates[allowed[candidates]], [_codes(docs.groups[b.column]) for b in params.balance])
    train = np.zeros(len(sizes), bool)
    if len(rows):
        quota = _quotas(docs, rows, params)
        before = _before(sizes[rows])
        with np.errstate(divide="ignore"):
            turn = (before - before[start] + docs.draw[rows] * sizes[rows]) / quota
        first = np.lexsort((docs.draw[rows], docs.rank[rows], turn))
        first = first[np.isfinite(turn[first])]
        train[rows[first[_before(sizes[rows[first]]) < params.sample_bytes]]] = True
    return Sample(train, held_out, len(candidates) - int(allowed.sum()))


def describe(docs: Documents, mask: np.ndarray) -> dict[str, Any]:
    """Documents, bytes and hosts of the mask, and the share of its bytes by each value of each other column."""
    sizes = docs.sizes[mask]
    found: dict[str, Any] = {"documents": int(mask.sum()), "bytes": int(sizes.sum())}
    for column, values in docs.groups.items():
        size = np.bincount(_codes(values)[mask], sizes, len(values.dictionary))
        names = values.dictionary.to_pylist()
        if column == "host":
            found["hosts"] = int((size > 0).sum())
            continue
        largest = sorted(np.flatnonzero(size), key=lambda i: (-size[i], names[i]))[:SHOWN]
        found.setdefault("shares", {})[column] = {names[i]: round(float(size[i] / sizes.sum()), 4) for i in largest}
    return found


def fill(budget: float, weights: np.ndarray, available: np.ndarray) -> np.ndarray:
    """float64[n]: `budget` divided in proportion to `weights`, none above `available`; the rest goes to the others."""
    share = np.zeros(len(weights))
    open_ = (weights > 0) & (available > 0)
    while open_.any():
        share[open_] = (budget - share[~open_].sum()) * weights[open_] / weights[open_].sum()
        full = open_ & (share >= available)
        if not full.any():
            break
        share[full] = available[full]
        open_ &= ~full
    return share


def weights_of(names: list[str], available: np.ndarray, balance: Balance) -> np.ndarray:
    """float64[n]: the share of each value: stated, or of the rest in proportion to bytes^alpha."""
    stated = np.array([balance.shares.get(name, -1.0) for name in names])
    free = stated < 0
    powers = np.where(free, np.asarray(available, np.float64) ** balance.alpha, 0)
    rest = max(1.0 - sum(balance.shares.values()), 0.0) if balance.shares else 1.0
    weights = np.where(free, 0, stated)
    if free.any():
        weights = np.where(free, rest * powers / powers.sum(), weights)
    return weights


def _quotas(docs: Documents, rows: np.ndarray, params: SampleParams) -> np.ndarray:
    """float64 bytes for the group of each of `rows`, which lie group by group."""
    levels = [docs.groups[balance.column] for balance in params.balance]
    sizes = docs.sizes[rows]
    quota = np.empty(len(rows))

    def divide(start: int, end: int, budget: float, level: int) -> None:
        if level == len(levels):
            quota[start:end] = budget
            return
        codes = np.asarray(levels[level].indices)[rows[start:end]]
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [end - start]]) + start
        names = levels[level].dictionary.take(pa.array(codes[cuts[:-1] - start])).to_pylist()
        available = np.add.reduceat(sizes[start:end], cuts[:-1] - start)
        by_name = np.argsort(np.array(names, object))  # sums of floats must not depend on the order of the rows
        weights = weights_of([names[i] for i in by_name], available[by_name], params.balance[level])
        shares = fill(budget, weights, available[by_name].astype(np.float64))
        for i, share in zip(by_name, shares, strict=True):
            divide(int(cuts[i]), int(cuts[i + 1]), float(share), level + 1)

    divide(0, len(rows), float(params.sample_bytes), 0)
    return quota


def _codes(values: pa.DictionaryArray) -> np.ndarray:
    return np.asarray(values.indices)


def _before(sizes: np.ndarray) -> np.ndarray:
    """int64: the sum of what comes before each entry."""
    return np.cumsum(sizes) - sizes


def _grouped(rows: np.ndarray, codes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The rows group by group, else in their order, and for each the position of the first of its group."""
    if not codes or not len(rows):
        return rows, np.zeros(len(rows), np.int64)
    rows = rows[np.lexsort([code[rows] for code in reversed(codes)])]
    new = np.concatenate([[True], np.any([np.diff(code[rows]) != 0 for code in codes], axis=0)])
    return rows, np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
