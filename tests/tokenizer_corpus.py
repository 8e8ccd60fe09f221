"""A small corpus for tests of the tokenizer, with the engine's sides that the stages see."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.stage import Batch
from stages.train_tokenizer import TrainTokenizer

PARAMS = TrainTokenizer(vocab_size=448)
WORDS = ["the", "quick", " brown", "fox", "jumps", "over", "12", "345", "don't", "sleep;", "naïve", "東京", "Привет\n"]


class FakeTools:
    seed = 7
    node = "tokenize"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def artifact(self, node: str) -> Path:
        assert node == "train_tokenizer"
        return self.folder


class FakeCorpus:
    def __init__(self, texts: list[str], step: int = 37, shuffle: int | None = None) -> None:
        if shuffle is not None:
            texts = [texts[n] for n in np.random.default_rng(shuffle).permutation(len(texts))]
        number = [int(text.split()[0]) if text[:1].isdigit() else 0 for text in texts]
        ids = [hashlib.md5(text.encode()).hexdigest() for text in texts]
        self.columns = {
            "doc_id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "host": pa.array([f"host{n % 9}" for n in number], pa.string()),
            "domain": pa.array([f"domain{n % 3}" for n in number], pa.string()),
            "source": pa.array(["crawl" if n % 5 else "books" for n in number], pa.string()),
            "kind": pa.array(["web" if n % 5 else None for n in number], pa.string()),
        }
        self.num_docs = len(texts)
        self.step = step

    def batches(self, *names: str):
        for start in range(0, self.num_docs, self.step):
            part = {name: self.columns[name].slice(start, self.step) for name in names}
            yield Batch(part, len(next(iter(part.values()))))


def make_texts(count: int = 400) -> list[str]:
    rng = np.random.default_rng(3)
    return [f"{n} " + " ".join(rng.choice(WORDS, 60)) for n in range(count)]


def batch_of(texts: list[str | None]) -> Batch:
    ids = [hashlib.md5(str(n).encode()).hexdigest() for n in range(len(texts))]
    return Batch({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}, len(texts))
