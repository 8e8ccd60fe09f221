"""Percentiles of scores over a reference: what cut-offs such as `perplexity.score <= p60` are read from.

A threshold from another corpus or model means little; the share that it keeps of a named reference does (CCNet, Wenzek
et al. 2020; FineWeb-2 for each language). The reference is what `where` selects of the documents left at this place.

    - percentiles: {name: cutoffs, columns: [perplexity.score], by: langid.language, where: [kind == wiki]}
    - select: {reference: cutoffs, rules: [perplexity.score <= p60]}

Exact, not sketched. Cost: one pass over the columns; memory: 8 bytes for each value, and one string of each group.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.stage import Batch, Corpus, Params, StageError, Tools, artifact_stage
from stages.sampling import matches, rule_columns

FILE = "percentiles.json"
EVERYTHING = ""  # name of the group of all documents


class PercentilesParams(Params):
    columns: tuple[str, ...] = Field(min_length=1, description="numeric columns of earlier stages")
    by: str | None = Field(None, description="column of text: percentiles of each of its groups too")
    where: tuple[str, ...] = Field((), description="rules that must all hold for a document of the reference")
    min_docs: int = Field(100, ge=1, description="a group with fewer values of a column is left out of it")

    @field_validator("where")
    @classmethod
    def _parsed(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        rule_columns(rules)
        return rules


def _values(batch: Batch, name: str, node: str) -> np.ndarray:
    array = batch[name]
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise StageError(f"stage {node}: expected numeric columns, found {name} of {array.type}")
    return np.asarray(array.cast(pa.float64()).fill_null(np.nan))


def _codes(batch: Batch, by: str, known: dict[str, int], node: str) -> np.ndarray:
    """int32 number of each row's group in `known`, which grows; -1 for a null or an empty name."""
    array = batch[by]
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    if not pa.types.is_string(encoded.type.value_type):
        raise StageError(f"stage {node}: expected a column of text in `by`, found {by} of {array.type}")
    numbers = [known.setdefault(name, len(known)) if name else -1 for name in encoded.dictionary.to_pylist()]
    table = np.array([*numbers, -1], np.int32)
    return table[np.asarray(encoded.indices.fill_null(len(numbers)))]


@artifact_stage(
    "percentiles",
    PercentilesParams,
    reads=lambda p: tuple(dict.fromkeys((*p.columns, *([p.by] if p.by else []), *rule_columns(p.where)))),
)
def percentiles(corpus: Corpus, params: PercentilesParams, out: Path, tools: Tools) -> dict[str, Any]:
    """Leaves `percentiles.json`: {column: {group: {"n": values, "p": [p0, p1, ... p100]}}}.

    The group "" is everything; groups are sorted. Percentiles interpolate linearly, as numpy does by default; nulls,
    NaN and infinities are left out, and a document without a group counts in "" alone. Raises StageError where a
    column has fewer than `min_docs` values altogether, or is not numeric.
    """
    columns = dict.fromkeys((*params.columns, *([params.by] if params.by else []), *rule_columns(params.where)))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in params.columns}
    codes: list[np.ndarray] = []
    known: dict[str, int] = {}
    for batch in corpus.batches(*columns):
        rows = matches(batch, params.where)
        for name, found in parts.items():
            found.append(_values(batch, name, tools.node)[rows])
        if params.by:
            codes.append(_codes(batch, params.by, known, tools.node)[rows])
    group = np.concatenate([*codes, np.zeros(0, np.int32)])
    documents = sum(map(len, parts[params.columns[0]]))
    result: dict[str, dict[str, Any]] = {}
    small: set[str] = set()
    for name in params.columns:
        values = np.concatenate([*parts.pop(name), np.zeros(0)])
        there = np.isfinite(values)
        if int(there.sum()) < params.min_docs:
            raise StageError(
                f"stage {tools.node}: expected at least {params.min_docs} documents with {name}"
                f"{' where ' + ' and '.join(params.where) if params.where else ''}, found {int(there.sum())} of "
                f"{documents}; loosen the rules, give more input, or lower min_docs"
            )
        result[name] = {EVERYTHING: _row(values[there])}
        for label in sorted(known):
            inside = values[there & (group == known[label])]
            if len(inside) >= params.min_docs:
                result[name][label] = _row(inside)
            else:
                small.add(label)
    (out / FILE).write_text(json.dumps(result, indent=1) + "\n")
    return {
        "documents": documents,
        "groups": len(known) - len(small),
        "groups_below_min_docs": sorted(small),
        **{f"{name}_p50": found[EVERYTHING]["p"][50] for name, found in result.items()},
    }


def _row(values: np.ndarray) -> dict[str, Any]:
    return {"n": len(values), "p": [float(value) for value in np.percentile(values, np.arange(101))]}
