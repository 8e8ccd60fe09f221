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

from pipeline.stage import Batch, Corpus, Rule, unit_hash


def rule_columns(*rule_lists: Sequence[str]) -> tuple[str, ...]:
    """The columns that the rules look at, sorted. Raises ValueError for a rule that cannot be parsed."""
    return tuple(sorted({Rule.parse(text).column for rules in rule_lists for text in rules}))


def matches(batch: Batch, rules: Sequence[str]) -> np.ndarray:
    """bool of shape (batch.num_rows,): rows where every rule holds on a value that is there (no null, no NaN)."""
    found = np.ones(batch.num_rows, bool)
    for text in rules:
        rule = Rule.parse(text)
        column = batch[rule.column]
        found &= rule.holds(column) & ~np.asarray(column.is_null(nan_is_null=True), dtype=bool)
    return found


@dataclass
class Drawn:
    """Texts of one class in hash order, with their hashes; `seen` documents satisfied the rules."""

    texts: list[str] = field(default_factory=list)
    hashes: list[float] = field(default_factory=list)
    seen: int = 0


@dataclass
class _Class:
    max_docs: int
    max_bytes: int
    heap: list[tuple[float, str, str]] = field(default_factory=list)  # negative hash, id, text: largest hash on top
    size: int = 0
    limit: float = 1.0
    seen: int = 0

    def add(self, value: float, doc_id: str, text: str) -> None:
        heapq.heappush(self.heap, (-value, doc_id, text))
        self.size += len(text)
        while len(self.heap) > self.max_docs or self.size - len(self.heap[0][2]) >= self.max_bytes:
            negative, _, dropped = heapq.heappop(self.heap)
            self.limit = -negative
            self.size -= len(dropped)


def draw(corpus: Corpus, classes: Mapping[str, Sequence[str]], seed: int, salt: str, max_docs: int,
         max_bytes: int) -> tuple[dict[str, Drawn], int]:  # fmt: skip
    """For each class (name -> rules), the documents with the smallest hashes whose rules all hold.

    At most `max_docs` documents, and no more than are needed for `max_bytes` characters of text. Documents without
    text are left out. A document that satisfies the rules of two classes belongs to neither; the second value
    counts these.
    """
    columns = rule_columns(*classes.values())
    open_classes = {name: _Class(max_docs, max_bytes) for name in classes}
    ambiguous = 0
    for batch in corpus.batches("doc_id", "text", *(c for c in columns if c not in ("doc_id", "text"))):
        found = np.stack([matches(batch, rules) for rules in classes.values()])
        found &= np.asarray(batch["text"].is_valid(), dtype=bool)
        both = found.sum(axis=0) > 1
        ambiguous += int(both.sum())
        hashes = unit_hash(batch["doc_id"], seed, salt)
        for flags, kept in zip(found & ~both, open_classes.values(), strict=True):
            kept.seen += int(flags.sum())
            rows = np.flatnonzero(flags & (hashes < kept.limit))
            index = pa.array(rows, pa.int64())
            ids, texts = batch["doc_id"].take(index).to_pylist(), batch["text"].take(index).to_pylist()
            for value, doc_id, text in zip(hashes[rows].tolist(), ids, texts, strict=True):
                if value < kept.limit:
                    kept.add(value, doc_id, text)
    drawn = {}
    for name, kept in open_classes.items():
        best = sorted((-negative, doc_id, text) for negative, doc_id, text in kept.heap)
        drawn[name] = Drawn([text for *_, text in best], [value for value, *_ in best], kept.seen)
    return drawn, ambiguous


def held_out_split(texts: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """`(training, held-out)` of texts in hash order: the last `share` of them, at least one, is held out."""
    count = max(1, round(len(texts) * share))
    return list(texts[:-count]), list(texts[-count:])
