"""A trained quality classifier on pages of known origin: how it ranks, how sure it is, and what a split hides."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import need, table
from pipeline.stage import Batch
from stages.train_classifier import TrainClassifierParams, train_classifier

MEASURES = ("precision", "recall", "f1", "auc", "brier", "ece")


class _Pages:
    """English originals of the near-duplicate set: encyclopedia and other passages against software documentation."""

    def __init__(self) -> None:
        table_ = pq.read_table(need("neardup", "docs.parquet"), columns=["doc_id", "text", "lang", "source", "plant"])
        rows = [row for row in table_.to_pylist() if row["lang"] == "en" and row["plant"] == "original"]
        crawled = [row["source"].startswith("crawl:") for row in rows]
        hosts = [urlsplit(row["source"].removeprefix("crawl:")).hostname for row in rows]
        self.columns = {
            "doc_id": pa.array([hashlib.md5(row["doc_id"].encode()).hexdigest() for row in rows]),
            "text": pa.array([row["text"] for row in rows]),
            "source": pa.array(["documentation" if flag else "passages" for flag in crawled]),
            "domain": pa.array(
                [host if flag else None for host, flag in zip(hosts, crawled, strict=True)], pa.string()
            ),
        }
        self.num_docs = len(rows)

    def batches(self, *names: str) -> Iterator[Batch]:
        for start in range(0, self.num_docs, 2048):
            size = min(2048, self.num_docs - start)
            yield Batch({name: self.columns[name].slice(start, size) for name in names}, size)


def section() -> str:
    """Markdown: held-out measurements for each text form and split, calibration, and the keep-rate curve."""
    pages, rows, found = _Pages(), [], {}
    for preprocess, split in (("lower", "document"), ("dclm", "document"), ("lower", "domain")):
        params = TrainClassifierParams.model_validate({
            "positives": {"sources": ["passages"]}, "negatives": {"sources": ["documentation"]},
            "preprocess": preprocess, "split_by": split,
        })  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            tools: Any = SimpleNamespace(seed=1, node="train_classifier", artifact=None)
            metrics = train_classifier(pages, params, Path(folder), tools)  # type: ignore[arg-type]
        found[preprocess, split] = metrics
        rows.append([preprocess, split, metrics["train_per_class"], metrics["held_out_per_class"],
                     *(f"{metrics[name]:.3f}" for name in MEASURES)])  # fmt: skip
    shown = found["lower", "domain"]
    curve = [[f"{row['threshold']:.2f}", f"{row['kept']:.1%}", "" if row["precision"] is None else row["precision"],
              row["recall"], row["negatives_kept"]] for row in shown["keep_rate"]
             if row["threshold"] in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]  # fmt: skip
    bins = [[f"{row['from']:.1f} to {row['from'] + 0.1:.1f}", row["count"], row["score"], row["positives"]]
            for row in shown["reliability"]]  # fmt: skip
    return "\n\n".join([
        "## Quality classifier (trained by `train_classifier`)",
        "Positives: English passages from encyclopedias, papers and court cases; negatives: English pages of software "
        "documentation. An easy pair, since the two differ in subject: this tests the machinery, not what quality is. "
        "Documents of each class; default sizes, a fifth held out.",
        table(["preprocess", "split by", "trained on", "held out", "precision", "recall", "F1", "AUC",
               "Brier", "ECE"], rows),
        "With `split_by: domain` whole sites of documentation are held out, which the model has never seen: the "
        "difference between the rows is what a split by document hides. Calibration and keep rate of that last model:",
        table(["score", "documents", "mean score", "share of positives"], bins),
        table(["threshold", "kept", "precision", "recall", "negatives kept"], curve),
        "A score is a probability only for a mixture like the training sample, half good and half bad; as a threshold "
        "take what the curve keeps, or a percentile of the scores of the corpus itself.",
    ])  # fmt: skip


if __name__ == "__main__":
    print(section())
