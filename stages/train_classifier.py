"""Train a fastText quality classifier from documents that named rules call good and bad.

Which pages are good is a choice, so the manifest says it: `positives` and `negatives` are rules over columns that
earlier stages made (a source, a host, a score). Both classes are drawn by hash of the document id and cut to one
size; a share is held out to measure precision, recall and the keep rate of each threshold. The classifier repeats what
the rules say: with rules over text statistics it learns these statistics, with a trusted source it learns that source.

Trade-off: 16 dimensions and 2^18 buckets for word pairs make a model of 17 MB and 64 bytes for each word (fastText's
defaults: 800 MB), and one thread makes the same bytes every time. Cost: 11,000 documents of 1.3 kB in 5 seconds.
Method: Joulin et al. 2016 (fastText); as a quality filter Li et al. 2024 (DCLM, section 4.4).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.stage import Corpus, Params, StageError, Tools, artifact_stage
from stages.sampling import Drawn, draw, held_out_split, rule_columns
from stages.text_normal import SCORED_BYTES, Normalisation, file_sha256, normalisation

MODEL_FILE = "model.bin"
RECORD_FILE = "artifact.json"
POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
RATE_HALVINGS = 8


class TrainClassifierParams(Params):
    positives: list[str] = Field(description="rules that must all hold for a good document, as in `host == a.org`")
    negatives: list[str] = Field(description="rules that must all hold for a bad document")
    normalisation: str = Field("lower/1", description="named text normalisation: dclm/1, lower/1 or tamis/1")
    max_per_class: int = Field(20_000, ge=1, description="documents of a class at most")
    max_bytes_per_class: int = Field(64_000_000, ge=1, description="characters of text of a class at most")
    min_per_class: int = Field(20, ge=4, description="fewer documents in a class are an error")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of each class that is measured on, not trained on")
    dim: int = Field(16, ge=1, le=1000, description="size of a word's vector")
    epoch: int = Field(5, ge=1, description="passes over the training documents")
    lr: float = Field(0.1, gt=0, description="learning rate; halved and tried again where training diverges")
    word_ngrams: int = Field(2, ge=1, le=5, description="longest run of words that is a feature")
    min_count: int = Field(1, ge=1, description="words seen less often are left out")
    bucket: int = Field(2**18, ge=1, description="hash buckets for the runs of words; each costs 4 * dim bytes")

    @field_validator("positives", "negatives")
    @classmethod
    def _rules(cls, rules: list[str]) -> list[str]:
        if not rules:
            raise ValueError("expected at least one rule, found an empty list")
        rule_columns(rules)
        return rules

    @field_validator("normalisation")
    @classmethod
    def _known(cls, name: str) -> str:
        return normalisation(name).name


def model_lines(normal: Normalisation, texts: pa.Array, max_bytes: int = SCORED_BYTES) -> list[str]:
    """Normalised texts as fastText reads them: one line each, in which no word looks like a label."""
    folded = normal(texts, max_bytes)[0].to_pylist()
    return [text.replace("\n", " ").replace("__label__", "__label ") for text in folded]


def positive_scores(model: Any, lines: list[str], positive: str) -> np.ndarray:
    """float32 of shape (n,): probability of the label `positive` for `model_lines`; 0 for a line without a word."""
    labels, values = model.predict(lines, k=-1)
    scores = np.zeros(len(lines), np.float32)
    for row, (names, probabilities) in enumerate(zip(labels, values, strict=True)):
        if lines[row] and positive in names:
            scores[row] = probabilities[names.index(positive)]
    # fastText adds 1e-5 to a softmax before its logarithm, so a sure answer comes out above 1
    return np.minimum(scores, np.float32(1.0))


def ranking_quality(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Area under the ROC curve: chance that a good document scores above a bad one, ties counted half."""
    order = np.sort(negatives)
    below = np.searchsorted(order, positives, "left")
    not_above = np.searchsorted(order, positives, "right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def _measure(good: np.ndarray, bad: np.ndarray) -> dict[str, Any]:
    kept_good, kept_bad = int((good >= 0.5).sum()), int((bad >= 0.5).sum())
    curve = [
        {
            "threshold": step / 10,
            "positives_kept": round(float((good >= step / 10).mean()), 4),
            "negatives_kept": round(float((bad >= step / 10).mean()), 4),
        }
        for step in range(1, 10)
    ]
    return {
        "precision": round(kept_good / max(1, kept_good + kept_bad), 4),
        "recall": round(kept_good / len(good), 4),
        "auc": round(ranking_quality(good, bad), 4),
        "keep_rate": curve,
    }


def _check_sizes(drawn: dict[str, Drawn], ambiguous: int, params: TrainClassifierParams, node: str) -> int:
    for name, rules in (("positives", params.positives), ("negatives", params.negatives)):
        if len(drawn[name].texts) < params.min_per_class:
            raise StageError(
                f"stage {node}: expected at least {params.min_per_class} documents for `{name}` "
                f"({' and '.join(rules)}), found {drawn[name].seen}"
                + (f" beside {ambiguous} that satisfy both classes" if ambiguous else "")
                + "; loosen the rules or lower min_per_class"
            )
    return min(len(found.texts) for found in drawn.values())


def train_model(path: Path, params: TrainClassifierParams, seed: int) -> tuple[Any, float]:
    """Model trained on a file of labelled lines, and the learning rate that it took.

    fastText stops with "Encountered NaN" where the rate is too high, as on few and repetitive documents: the rate is
    halved and training starts again. Raises StageError when that does not help.
    """
    rate = params.lr
    for _ in range(RATE_HALVINGS + 1):
        try:
            model = fasttext.train_supervised(
                str(path), lr=rate, dim=params.dim, epoch=params.epoch, wordNgrams=params.word_ngrams,
                minCount=params.min_count, bucket=params.bucket, thread=1, seed=seed, verbose=0,
            )  # fmt: skip
        except RuntimeError as error:
            if "NaN" not in str(error):
                raise
            rate /= 2
        else:
            return model, rate
    raise StageError(
        f"fastText diverged (NaN) at every learning rate from {params.lr} down to {rate * 2:g}; "
        "expected varied documents in both classes: lower lr, or check the rules for documents that repeat"
    )


@artifact_stage(
    "train_classifier",
    TrainClassifierParams,
    reads=lambda p: tuple(dict.fromkeys(("doc_id", "text", *rule_columns(p.positives, p.negatives)))),
)
def train_classifier(corpus: Corpus, params: TrainClassifierParams, out: Path, tools: Tools) -> dict[str, Any]:
    """Leaves `model.bin` (fastText) and `artifact.json` (labels, normalisation, held-out measurements)."""
    normal = normalisation(params.normalisation)
    rules = {"positives": params.positives, "negatives": params.negatives}
    drawn, ambiguous = draw(
        corpus, rules, tools.seed, "train_classifier", params.max_per_class, params.max_bytes_per_class
    )
    size = _check_sizes(drawn, ambiguous, params, tools.node)
    train_lines: list[tuple[str, str]] = []
    held: dict[str, list[str]] = {}
    for name, label in (("positives", POSITIVE), ("negatives", NEGATIVE)):
        training, held[name] = held_out_split(drawn[name].texts[:size], params.held_out)
        train_lines += [(label, text) for text in model_lines(normal, pa.array(training, pa.string()))]
    order = np.argsort([hashlib.blake2b(f"{label} {text}".encode()).digest() for label, text in train_lines])
    corpus_file = out / "train.txt"
    with corpus_file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{train_lines[i][0]} {train_lines[i][1]}\n" for i in order)
    model, rate = train_model(corpus_file, params, tools.seed % 2**31)
    corpus_file.unlink()
    model.save_model(str(out / MODEL_FILE))
    good, bad = (
        positive_scores(model, model_lines(normal, pa.array(held[name], pa.string())), POSITIVE)
        for name in ("positives", "negatives")
    )
    metrics = {
        "train_per_class": size - len(good),
        "held_out_per_class": len(good),
        "positives_found": drawn["positives"].seen,
        "negatives_found": drawn["negatives"].seen,
        "in_both_classes": ambiguous,
        "lr": rate,
        **_measure(good, bad),
    }
    record = {
        "type": "fasttext",
        "labels": {"positive": POSITIVE, "negative": NEGATIVE},
        "normalisation": {"name": normal.name, "fingerprint": normal.fingerprint},
        "sha256": file_sha256(out / MODEL_FILE),
        "metrics": metrics,
    }
    (out / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return metrics
