"""Score documents with a fastText quality classifier: the probability of its good label.

The model is one that the same manifest trains, or a file made elsewhere. It reads text in the form that it was trained
with. Published rule: `score >= min_score`::

    - quality                                                          # the model of `train_classifier`
    - quality: {model: models/oh_eli5.bin, label: __label__hq, preprocess: dclm, min_score: 0.018112}

The second line is DCLM's filter (mlfoundations/dclm, baselines/baselines_configs/fasttext_filter.yaml), with one
difference: a document is read up to `max_bytes`. A name with a dot or a slash is a file, whose content becomes part of
the node's fingerprint; `sha256` refuses any other file.
Trade-off: the threshold is a choice of the corpus, not a constant of nature; the held-out curve of the training stage
shows what each keeps. Cost: about 30 MB of text per CPU-second with a model of 17 MB, bounded by cache misses, one for
each word and pair of words. The weights are mapped, so processes of a machine share them.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.stage import Batch, Params, Rule, StageError, Tools, doc_stage
from stages.fasttext_file import content_hash
from stages.fasttext_model import FastTextModel
from stages.fasttext_text import check_fingerprint, model_lines
from stages.train_classifier import MODEL_FILE, READ_BYTES, RECORD_FILE, positive_scores


class QualityParams(Params):
    model: str = Field("train_classifier", min_length=1, description="stage that trains it, or path of a model file")
    label: str | None = Field(None, description="of a model file: the label whose probability is the score")
    preprocess: Literal["lower", "dclm"] | None = Field(
        None, description="of a model file: the form of the text that it was trained with"
    )
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="of a model file: any other file is refused")
    min_score: float = Field(0.5, ge=0, le=1, description="threshold of the published rule")
    max_bytes: int = Field(READ_BYTES, ge=1, description="bytes of a document that are read")

    @property
    def is_file(self) -> bool:
        """Is `model` a path? Names of stages hold neither a dot nor a slash."""
        return "." in self.model or "/" in self.model

    @model_validator(mode="after")
    def _file_or_stage(self) -> QualityParams:
        given = [name for name in ("label", "preprocess", "sha256") if getattr(self, name) is not None]
        if not self.is_file and given:
            raise ValueError(f"expected a model file with {', '.join(given)}, found the stage {self.model!r}")
        if self.is_file and not {"label", "preprocess"} <= set(given):
            raise ValueError(f"expected `label` and `preprocess` with the model file {self.model}, found "
                             f"{', '.join(given) or 'neither'}")  # fmt: skip
        return self


@functools.lru_cache(maxsize=4)
def load_trained(folder: Path) -> tuple[FastTextModel, str, str]:
    """`(model, positive label, preprocessing)` of a folder that `train_classifier` left; once for each process."""
    record = json.loads((folder / RECORD_FILE).read_text())
    preprocess = check_fingerprint(record["preprocess"], str(folder))
    return FastTextModel(folder / MODEL_FILE, record["sha256"]), record["labels"]["positive"], preprocess


@functools.lru_cache(maxsize=4)
def load_file(path: Path, sha256: str | None, label: str, changed: str) -> FastTextModel:
    """The model of a file with that label. Raises StageError where it is none, or has no such label."""
    model = FastTextModel(path, sha256)
    if label not in model.labels:
        raise StageError(f"model file {path}: expected a label {label}, found {', '.join(model.labels[:10])}")
    return model


@doc_stage(
    "quality",
    QualityParams,
    reads=("text",),
    adds=[("score", pa.float32())],
    rules=lambda p: [Rule.parse(f"score >= {p.min_score}")],
    artifacts=lambda p: () if p.is_file else (p.model,),
    identity=lambda p: content_hash(Path(p.model)) if p.is_file else "",
)
def quality(batch: Batch, params: QualityParams, tools: Tools) -> dict[str, pa.Array]:
    """`score`: float32 in [0, 1], probability of the positive label; null for a document without a word."""
    if params.is_file and params.label and params.preprocess:
        label, preprocess = params.label, str(params.preprocess)
        model = load_file(Path(params.model), params.sha256, label, content_hash(Path(params.model)))
    else:
        model, label, preprocess = load_trained(tools.artifact(params.model))
    scores = positive_scores(model, model_lines(preprocess, batch["text"], params.max_bytes), label)
    return {"score": pa.array(scores, mask=np.isnan(scores))}
