"""A corpus and tools in memory, for tests of stages that train models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.stage import Batch

GOOD = "the a model of language that reads is trained on careful sentences and learns what people write"
BAD = "buy cheap now click free win casino bonus offer best price deal cart login sale today only"
WORDS = {"good": GOOD.split(), "bad": BAD.split()}


class FakeCorpus:
    """Columns in memory; only `batches` of the protocol, which is all that these stages use."""

    def __init__(self, columns: dict[str, pa.Array], step: int = 37) -> None:
        self.columns, self.step = columns, step
        self.num_docs = len(columns["text"])

    def batches(self, *names: str):
        for start in range(0, self.num_docs, self.step):
            size = min(self.step, self.num_docs - start)
            yield Batch({name: self.columns[name].slice(start, size) for name in names}, size)

    def reordered(self, seed: int) -> FakeCorpus:
        order = pa.array(np.random.default_rng(seed).permutation(self.num_docs))
        return FakeCorpus({name: array.take(order) for name, array in self.columns.items()}, step=11)

    def batch(self) -> Batch:
        return Batch(self.columns, self.num_docs)


class FakeTools:
    def __init__(self, folder: Path | None = None, seed: int = 7) -> None:
        self.seed, self.node, self.folder = seed, "node", folder

    def artifact(self, node: str) -> Path:
        assert self.folder is not None
        return self.folder


def two_kinds(docs: int = 60, lines: int = 4) -> Any:
    """`docs` documents of each kind in WORDS, by turns; `kind` tells which (null for the last two), `source` too."""
    rng = np.random.default_rng(5)
    texts: list[str] = []
    kinds: list[str | None] = []
    for _ in range(docs):
        for kind, words in WORDS.items():
            texts.append("\n".join(" ".join(rng.choice(words, 9)).capitalize() + "." for _ in range(lines)))
            kinds.append(kind)
    kinds[-2:] = [None, None]
    ids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(len(texts))]
    sources = ["wiki" if i % 2 == 0 else "crawl" for i in range(len(texts))]
    domains = [f"{source}{i % 7}.example" for i, source in enumerate(sources)]
    columns = {"doc_id": ids, "text": texts, "kind": kinds, "source": sources, "domain": domains}
    return FakeCorpus({name: pa.array(values) for name, values in columns.items()})
