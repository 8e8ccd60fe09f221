"""Train a fastText quality classifier from documents that the manifest calls good and bad.

Which pages are good is a choice, so the manifest says it: `positives` and `negatives` name sources, or give rules over
columns that earlier stages made (a host, a kind, a score), or both. The classes are drawn by hash of the document id,
freed of repeated texts, cut to one size, and split by hash; the held-out share is what precision, recall, calibration
and the keep rate of each threshold are measured on. The classifier repeats what it is told: with rules over text
statistics it learns these statistics, with a trusted source it learns that source, and its house style too.

`split_by: document` measures how well the classifier knows these sources; `split_by: domain` puts all documents of a
registered domain on one side and so measures it on sites that it has not seen, which is lower and more honest; it needs
several domains in each class. Near copies of one text on both sides flatter the measurement: run `near_dedup` before.

Trade-off: 16 dimensions and 2^18 buckets for word pairs make a model of 17 MB and 64 bytes for each word (DCLM has
fastText's defaults, `dim: 100, bucket: 2000000`: 800 MB), and one thread makes the same bytes every time.
Cost: 11,000 documents of 1.3 kB in 5 seconds; memory: the texts of both classes.
Method: Joulin et al. 2016 (fastText); as a quality filter Li et al. 2024 (DCLM, section 4.4).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import fasttext
import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipeline.stage import Corpus, Params, StageError, Tools, artifact_stage
from stages.assets import sha256_of
from stages.classifier_metrics import measure
from stages.fasttext_model import FastTextModel
from stages.fasttext_text import fingerprint, model_lines
from stages.sampling import draw, rule_columns

MODEL_FILE = "model.bin"
RECORD_FILE = "artifact.json"
POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
CLASSES = {"positives": POSITIVE, "negatives": NEGATIVE}
READ_BYTES = 1_000_000  # of one document; what follows is not read
RATE_HALVINGS = 8
LONGEST = 2**31  # lines are cut before


class DocumentClass(Params):
    """Documents of the named sources that satisfy every rule. A list of rules alone may stand for it."""

    sources: tuple[str, ...] = Field((), description="names of sources of the manifest; empty: any")
    where: tuple[str, ...] = Field((), description="rules that must all hold, as in `domain == a.org`")

    @field_validator("where")
    @classmethod
    def _parsed(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        rule_columns(rules)
        return rules

    @model_validator(mode="after")
    def _some(self) -> DocumentClass:
        if not (self.sources or self.where):
            raise ValueError("expected `sources` or at least one rule, found neither")
        return self

    @property
    def rules(self) -> list[str]:
        """Sources and rules as one list of rules."""
        return ([f"source in [{', '.join(self.sources)}]"] if self.sources else []) + list(self.where)


class TrainClassifierParams(Params):
    positives: DocumentClass = Field(description="good documents: {sources: [wiki], where: [rules]}, or rules alone")
    negatives: DocumentClass = Field(description="bad documents, in the same form")
    preprocess: Literal["lower", "dclm"] = Field("lower", description="named form of the text that the model reads")
    split_by: Literal["document", "domain"] = Field("document", description="what is never on both sides of the split")
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

    @field_validator("positives", "negatives", mode="before")
    @classmethod
    def _rules_alone(cls, given: Any) -> Any:
        return {"where": given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _two_classes(self) -> TrainClassifierParams:
        good, bad = self.positives, self.negatives
        shared = not good.sources or not bad.sources or set(good.sources) & set(bad.sources)
        if shared and set(good.where) == set(bad.where):
            raise ValueError(
                "expected positives and negatives to be different documents, found the same "
                f"{'sources' if good.sources else 'rules'} in both ({', '.join(good.sources or good.where)})"
            )
        return self


def _too_few(corpus: Corpus, params: TrainClassifierParams, node: str, name: str, found: str) -> StageError:
    """The error for a class that is too small, with what the corpus holds."""
    seen: Counter[str] = Counter()
    for batch in corpus.batches("source"):
        seen.update(batch["source"].to_pylist())
    held = ", ".join(f"{source} ({count})" for source, count in sorted(seen.items())[:20]) or "none"
    return StageError(
        f"stage {node}: expected at least {params.min_per_class} documents for `{name}` "
        f"({' and '.join(getattr(params, name).rules)}), found {found}; sources with documents left here: {held}. "
        "Name other sources, loosen the rules, move the stage before the filters, or lower min_per_class"
    )


def _cut(groups: list[str], share: float) -> int:
    """Where the held-out part of texts in group order starts: the boundary of two groups nearest to `share`."""
    bounds = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    wanted = len(groups) - max(1, round(len(groups) * share))
    return min(bounds, key=lambda i: (abs(i - wanted), i), default=0)


def _sides(corpus: Corpus, params: TrainClassifierParams, tools: Tools) -> tuple[dict[str, Any], dict[str, Any]]:
    """`({class: (training lines, held-out lines)}, counts)`: drawn, without repeated texts, balanced and split."""
    classes = {name: getattr(params, name).rules for name in CLASSES}
    group = "doc_id" if params.split_by == "document" else "domain"
    drawn, ambiguous = draw(
        corpus, classes, tools.seed, "train_classifier", params.max_per_class, params.max_bytes_per_class, group
    )
    beside = f" beside {ambiguous} that satisfy both classes" if ambiguous else ""
    lines, owners = {}, {}
    for name, found in drawn.items():
        lines[name] = model_lines(params.preprocess, pa.array(found.texts, pa.string()), READ_BYTES)
        owners[name] = {line: row for row, line in reversed(list(enumerate(lines[name]))) if line}
    both = owners["positives"].keys() & owners["negatives"].keys()
    counts: dict[str, Any] = {"in_both_classes": ambiguous, "same_text_in_both": len(both)}
    ordered: dict[str, list[tuple[str, str]]] = {}
    for name, found in drawn.items():
        rows = sorted(row for line, row in owners[name].items() if line not in both)
        counts |= {f"{name}_found": found.seen, f"{name}_repeated": len(found.texts) - len(owners[name])}
        if len(rows) < params.min_per_class:
            raise _too_few(corpus, params, tools.node, name, f"{found.seen} ({len(rows)} different texts){beside}")
        ordered[name] = [(found.groups[row], lines[name][row]) for row in rows]
    size = min(map(len, ordered.values()))
    sides = {}
    for name, pairs in ordered.items():
        kept = pairs[:size]
        if params.split_by == "domain":  # whole domains, in the order of their hash
            kept.sort(key=lambda pair: hashlib.blake2b(f"{tools.seed} {pair[0]}".encode()).digest())
        at = _cut([owner for owner, _ in kept], params.held_out)
        if at == 0:
            raise StageError(
                f"stage {tools.node}: expected `{name}` from several domains for `split_by: domain`, found one "
                f"({kept[0][0]}); use `split_by: document`"
            )
        texts = [line for _, line in kept]
        sides[name] = texts[:at], texts[at:]
    # domains differ in size, so both sides are balanced again
    train, held = (min(len(side[part]) for side in sides.values()) for part in (0, 1))
    return {name: (side[0][:train], side[1][:held]) for name, side in sides.items()}, counts


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


def positive_scores(model: FastTextModel, lines: list[str], positive: str) -> np.ndarray:
    """float32 of shape (n,): probability of the label `positive` for `model_lines`; NaN for a line without a word."""
    scores, words = model.scores(pa.array(lines, pa.string()), LONGEST)
    return np.where(words > 0, scores[:, model.labels.index(positive)], np.float32(np.nan))


@artifact_stage(
    "train_classifier",
    TrainClassifierParams,
    reads=lambda p: tuple(
        dict.fromkeys(("doc_id", "text", "source", *(["domain"] if p.split_by == "domain" else []),
                       *rule_columns(p.positives.rules, p.negatives.rules)))
    ),
)  # fmt: skip
def train_classifier(corpus: Corpus, params: TrainClassifierParams, out: Path, tools: Tools) -> dict[str, Any]:
    """Leaves `model.bin` (fastText) and `artifact.json` (labels, preprocessing, held-out measurements).

    The measurements (see `stages.classifier_metrics`) are the stage's numbers in the report too. Raises StageError
    where a class is too small, with the counts.
    """
    sides, counts = _sides(corpus, params, tools)
    labelled = [(label, line) for name, label in CLASSES.items() for line in sides[name][0]]
    order = np.argsort([hashlib.blake2b(f"{label} {text}".encode()).digest() for label, text in labelled])
    corpus_file = out / "train.txt"
    with corpus_file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{labelled[i][0]} {labelled[i][1]}\n" for i in order)
    model, rate = train_model(corpus_file, params, tools.seed % 2**31)
    corpus_file.unlink()
    model.save_model(str(out / MODEL_FILE))
    scorer = FastTextModel(out / MODEL_FILE)
    good, bad = (positive_scores(scorer, sides[name][1], POSITIVE) for name in CLASSES)
    metrics = {
        "train_per_class": len(sides["positives"][0]),
        "held_out_per_class": len(good),
        "split_by": params.split_by,
        **counts,
        "lr": rate,
        **measure(good, bad),
    }
    record = {
        "type": "fasttext",
        "labels": {"positive": POSITIVE, "negative": NEGATIVE},
        "preprocess": {"name": params.preprocess, "fingerprint": fingerprint(params.preprocess)},
        "sha256": sha256_of(out / MODEL_FILE),
        "metrics": metrics,
    }
    (out / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return metrics
