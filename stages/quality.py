"""Score documents with a fastText quality classifier: the probability of its good label.

The model is one that the same manifest trains, or a file named with its SHA-256. It is used only with the text
normalisation that it was trained with. Published rule: `score >= min_score`.
Trade-off: the threshold is a choice of the corpus, not a constant of nature; the held-out curve of the training stage
shows what each keeps. Cost: measured at 24 MB of text for each CPU-second; fastText's
own splitting and hashing of words bounds it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.stage import Batch, Params, Rule, StageError, Tools, doc_stage
from stages.text_normal import SCORED_BYTES, Normalisation, bound_normalisation, checked_file, normalisation
from stages.train_classifier import MODEL_FILE, POSITIVE, RECORD_FILE, model_lines, positive_scores


class ClassifierFile(Params):
    """A fastText model from a file. A model file is trusted as code would be, so its checksum must be known."""

    path: str = Field(description="fastText .bin or .ftz file")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file, in hex")
    normalisation: str = Field("dclm/1", description="named text normalisation that the model was trained with")
    positive: str = Field(POSITIVE, description="the label whose probability is the score")

    @field_validator("normalisation")
    @classmethod
    def _known(cls, name: str) -> str:
        return normalisation(name).name


class QualityParams(Params):
    model: str | ClassifierFile = Field("train_classifier", description="name of the stage that trains it, or a file")
    min_score: float = Field(0.5, ge=0, le=1, description="threshold of the published rule")
    max_bytes: int = Field(SCORED_BYTES, ge=1, description="bytes of a document that are read")


@functools.lru_cache(maxsize=4)
def load_trained(folder: Path) -> tuple[Any, str, Normalisation]:
    """`(model, positive label, normalisation)` of a folder that `train_classifier` left; once for each process."""
    record = json.loads((folder / RECORD_FILE).read_text())
    normal = bound_normalisation(record["normalisation"], str(folder))
    model = fasttext.load_model(str(checked_file(folder / MODEL_FILE, record["sha256"])))
    return model, record["labels"]["positive"], normal


@functools.lru_cache(maxsize=4)
def load_file(file: ClassifierFile) -> tuple[Any, str, Normalisation]:
    """The same of a model file. Raises StageError where it is none, or has no such label."""
    path = checked_file(Path(file.path), file.sha256)
    try:
        model = fasttext.load_model(str(path))
    except ValueError as error:
        raise StageError(f"model file {path}: expected a fastText model, found none ({error})") from error
    if file.positive not in model.get_labels():
        raise StageError(f"model {file.path}: expected a label {file.positive}, found {model.get_labels()[:10]}")
    return model, file.positive, normalisation(file.normalisation)


@doc_stage(
    "quality",
    QualityParams,
    reads=("text",),
    adds=[("score", pa.float32())],
    rules=lambda p: [Rule.parse(f"score >= {p.min_score}")],
    artifacts=lambda p: (p.model,) if isinstance(p.model, str) else (),
)
def quality(batch: Batch, params: QualityParams, tools: Tools) -> dict[str, pa.Array]:
    """`score`: float32 in [0, 1], probability of the positive label; 0 for a document without a word."""
    if isinstance(params.model, str):
        model, positive, normal = load_trained(tools.artifact(params.model))
    else:
        model, positive, normal = load_file(params.model)
    lines = model_lines(normal, batch["text"], params.max_bytes)
    return {"score": pa.array(positive_scores(model, lines, positive))}
