"""Language identification and quality classifier: MB of text per CPU-second, beside bare fastText and datatrove.

Bare fastText is one `predict` for each document in Python, as one would write it by hand, newlines replaced. All read
the same documents with the same model files in the same run, and take turns; the least CPU time of each counts.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa

from benchmarks.common import best, english_documents, peer, table
from pipeline.stage import Batch
from stages.fasttext_model import FastTextModel
from stages.fasttext_text import model_lines
from stages.kernels import fasttext as kernel
from stages.langid import LangidParams, langid, model_path
from stages.quality import QualityParams, quality
from stages.train_classifier import READ_BYTES, TrainClassifierParams, train_model

DOCUMENTS, BATCH, ALL = 4_000, 256, 2**31


def _model(folder: Path, documents: list[str]) -> Path:
    """A classifier of the default size; what it learns (a hash of the text) does not matter to its speed."""
    lines = model_lines("lower", pa.array(documents), READ_BYTES)
    names = ["positive" if hashlib.md5(line.encode()).digest()[0] % 2 else "negative" for line in lines]
    (folder / "train.txt").write_text("".join(f"__label__{n} {t}\n" for n, t in zip(names, lines, strict=True)))
    params = TrainClassifierParams(positives=["a == 1"], negatives=["a == 2"])
    train_model(folder / "train.txt", params, 1)[0].save_model(str(folder / "quality.bin"))
    return folder / "quality.bin"


def _batches(documents: list[str]) -> list[Batch]:
    parts = [documents[i : i + BATCH] for i in range(0, len(documents), BATCH)]
    return [Batch({"text": pa.array(part)}, len(part)) for part in parts]


def _profile(model: FastTextModel, texts: pa.Array, what: str, whole: float) -> str:
    """Where the CPU time of a pass goes."""
    hidden = np.zeros((len(texts), model._file.inputs.shape[1]), np.float32)
    scores = np.empty((len(texts), len(model.labels)), np.float32)
    losses = {"hs": kernel.HIERARCHICAL}
    loss = losses.get(model._file.loss, kernel.SOFTMAX)
    labels = best(lambda: kernel.label_scores(hidden, model._file.outputs, loss, model._left, model._right, scores))
    both = best(lambda: model.scores(texts, ALL))
    rest = max(whole - both, 0.0)
    parts = [
        ("words, n-grams and their rows", both - labels),
        ("scores of the labels", labels),
        ("text form, Arrow", rest),
    ]
    return f"{what}: " + ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in parts) + "."


def run() -> str:
    """Markdown: speeds, ratios in the same run, agreement with the peers, and what bounds the loops."""
    documents = english_documents(DOCUMENTS)
    size = sum(len(text.encode()) for text in documents) / 1e6
    lid = model_path(LangidParams())
    batches = _batches(documents)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = _model(folder, documents)
        given: dict[str, Any] = {"model": str(own), "label": "__label__positive", "preprocess": "dclm"}
        dclm, lower = QualityParams(**given), QualityParams(**{**given, "preprocess": "lower"})
        native = {"langid": fasttext.load_model(str(lid)), "quality": fasttext.load_model(str(own))}
        (folder / "texts").write_text("".join(json.dumps(text) + "\n" for text in documents))
        theirs = peer("classifiers_datatrove.py", {
            "texts": str(folder / "texts"), "langid": str(lid), "quality": str(own), "label": "__label__positive",
        })  # fmt: skip

        def each(stage: Any, params: Any) -> list[dict[str, pa.Array]]:
            return [stage(batch, params, None) for batch in batches]

        def bare(which: str) -> list[Any]:
            predict = native[which].predict
            return [predict(text.replace("\n", " ")) for text in documents]

        whole = LangidParams(max_bytes=READ_BYTES)
        seconds = {
            "langid": best(lambda: each(langid, whole)), "quality": best(lambda: each(quality, dclm)),
            "quality, lower": best(lambda: each(quality, lower)),
        }  # fmt: skip
        bare_seconds = {which: best(lambda which=which: bare(which)) for which in native}
        found = pa.concat_arrays([out["language"] for out in each(langid, whole)]).to_pylist()
        scores = pa.concat_arrays([out["score"] for out in each(quality, dclm)]).to_numpy()
        same = sum(a == b for a, b in zip(found, theirs["languages"], strict=True)) / len(documents)
        apart = float(np.abs(scores - np.minimum(theirs["scores"], 1)).max())
        texts = pa.array(documents)
        notes = [
            _profile(FastTextModel(lid), texts, "langid", seconds["langid"]),
            _profile(FastTextModel(own), texts, "quality", seconds["quality"]),
        ]
    rows = []
    for label, key in (("langid, lid.176.ftz", "langid"), ("quality, preprocess dclm", "quality")):
        peer_seconds = theirs["seconds"][key]
        rows.append([label, size / seconds[key], size / bare_seconds[key], size / peer_seconds,
                     f"{bare_seconds[key] / seconds[key]:.1f}", f"{peer_seconds / seconds[key]:.1f}"])  # fmt: skip
    rows.append(["quality, preprocess lower", size / seconds["quality, lower"], "", "", "", ""])
    header = ["stage", "MB/s", "bare fasttext.predict", f"datatrove {theirs['version']}", "times bare",
              "times datatrove"]  # fmt: skip
    return (
        f"## fastText classifiers\n\n{len(documents):,} English documents, {size:.1f} MB, MB of text per CPU-second; "
        f"batches of {BATCH}. Goal: 5.\n\n{table(header, rows)}\n\n"
        f"Same language as datatrove on {same:.2%} of the documents; quality scores differ by {apart:.1e} at most.\n"
        f"CPU time, {' '.join(notes)} The loops are bound by the hashing of words and by cache misses: one for a row "
        "of the weights.\n"
    )


if __name__ == "__main__":
    print(run())
