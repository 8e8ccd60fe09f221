"""Drawing documents for training a model: by stated rules, in the order of a hash, within a budget.

One pass over the corpus. Of each class the documents with the smallest hashes stay, as many as the budget asks for, so
the draw depends on the set of documents alone and not on their order. Memory: the budget and one document.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.stage import Batch, Corpus, Expression, unit_hash

DRAWN_CHARS = 1_000_000


def rule_columns(*rule_lists: Sequence[str]) -> tuple[str, ...]:
    """The columns that the rules look at, sorted. Raises ValueError for a rule that cannot be used here."""
    columns: set[str] = set()
    for text in (text for rules in rule_lists for text in rules):
        found = Expression.parse(text)
        if any(rule.percentile is not None for rule in found.rules()):
            raise ValueError(f"expected fixed bounds, found a percentile in {text!r}")
        columns.update(found.columns)
    return tuple(sorted(columns))


def matches(batch: Batch, rules: Sequence[str]) -> np.ndarray:
    """bool of shape (batch.num_rows,): rows where every rule is true; one over a null or NaN is not."""
    found = np.ones(batch.num_rows, bool)
    for text in rules:
        truth = Expression.parse(text).truth(lambda name: batch[name])
        found &= np.asarray(truth.fill_null(False), dtype=bool)
    return found


@dataclass
class Drawn:
    """Texts of one class in hash order, with their hashes and group names; `seen` documents satisfied the rules."""

    texts: list[str] = field(default_factory=list)
    hashes: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    seen: int = 0


@dataclass
class _Class:
    max_docs: int
    max_bytes: int
    heap: list[tuple[float, str, str, str]] = field(default_factory=list)  # -hash, id, text, group: largest hash on top
    size: int = 0
    limit: float = 1.0
    seen: int = 0

    def add(self, value: float, doc_id: str, text: str, group: str) -> None:
        heapq.heappush(self.heap, (-value, doc_id, text, group))
        self.size += len(text)
        while len(self.heap) > self.max_docs or self.size - len(self.heap[0][2]) >= self.max_bytes:
            negative, _, dropped, _ = heapq.heappop(self.heap)
            self.limit = -negative
            self.size -= len(dropped)


def draw(corpus: Corpus, classes: Mapping[str, Sequence[str]], seed: int, salt: str, max_docs: int,
         max_bytes: int, group: str = "doc_id") -> tuple[dict[str, Drawn], int]:  # fmt: skip
    """For each class (name -> rules), the documents with the smallest hashes whose rules all hold.

    At most `max_docs` documents, and no more than are needed for `max_bytes` characters of text; of a long document
    the first DRAWN_CHARS, so that one book does not fill the budget. Documents without text are left out. A document
    that satisfies the rules of two classes belongs to neither; the second value counts these. `group` is a string
    column that names what belongs together; where it is null, the document's id.
    """
    columns = dict.fromkeys(("doc_id", "text", group, *rule_columns(*classes.values())))
    open_classes = {name: _Class(max_docs, max_bytes) for name in classes}
    ambiguous = 0
    for batch in corpus.batches(*columns):
        found = np.stack([matches(batch, rules) for rules in classes.values()])
        found &= np.asarray(batch["text"].is_valid(), dtype=bool)
        both = found.sum(axis=0) > 1
        ambiguous += int(both.sum())
        hashes = unit_hash(batch["doc_id"], seed, salt)
        for flags, kept in zip(found & ~both, open_classes.values(), strict=True):
            kept.seen += int(flags.sum())
            rows = np.flatnonzero(flags & (hashes < kept.limit))
            index = pa.array(rows, pa.int64())
            ids, texts, groups = (batch[name].take(index).to_pylist() for name in ("doc_id", "text", group))
            for value, doc_id, text, name in zip(hashes[rows].tolist(), ids, texts, groups, strict=True):
                if value < kept.limit:
                    kept.add(value, doc_id, text[:DRAWN_CHARS], name or doc_id)
    drawn = {}
    for name, kept in open_classes.items():
        best = sorted((-negative, doc_id, text, at) for negative, doc_id, text, at in kept.heap)
        drawn[name] = Drawn([b[2] for b in best], [b[0] for b in best], [b[3] for b in best], kept.seen)
    return drawn, ambiguous
