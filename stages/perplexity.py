"""Score documents with a KenLM language model: perplexity for each word, and CCNet's head, middle or tail.

The model is one that the same manifest trains (of its two, the one that has not seen the document), or a file made
elsewhere, named with its SHA-256 and the normalisation that it was trained with::

    - perplexity                                                                 # the model of `train_lm`
    - perplexity:
        by: langid.language
        model:
          en: {path: models/en.arpa.bin, sha256: ..., normalisation: edugp/1, pieces: models/en.sp.model,
               pieces_sha256: ..., head_below: 340, middle_below: 920}

`bucket` compares the score with percentiles of the reference that `train_lm` measured (`head_percentile`,
`middle_percentile`), or with the bounds of a file. Published rule, where there are such bounds: `bucket in [head,
middle]`, which drops 40 % of the reference at the default percentiles, as CCNet does. Bounds on the score itself are
rules of `select`, as in `perplexity.score <= 400`.
Trade-off: perplexity measures likeness to the training sample. Text of another kind or language scores badly whatever
its worth, so `where` limits what is scored and `by` picks a model by a column; rows that fail, or whose value has no
model, get null.
Method: CCNet (Wenzek et al. 2020), but line by line where the normalisation keeps lines. Cost: see
`stages.kenlm_score`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kenlm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from pipeline.stage import Batch, Params, Rule, StageError, Tools, doc_stage
from stages.kenlm_score import load_model, perplexities
from stages.lm_text import LmText, Pieces
from stages.sampling import matches, rule_columns
from stages.text_normal import SCORED_BYTES, bound_normalisation, checked_file, normalisation
from stages.train_lm import RECORD_FILE, folds

SHA256 = "^[0-9a-f]{64}$"


class LanguageModelFile(Params):
    """A KenLM model from a file. A binary is mapped into memory as it is, so its checksum must be known."""

    path: str = Field(description="ARPA file or KenLM binary over the units of its training text")
    sha256: str = Field(pattern=SHA256, description="SHA-256 of the file, in hex")
    normalisation: str = Field(description="named text normalisation that the model was trained with")
    pieces: str | None = Field(None, description="SentencePiece model of its units; none: words between spaces")
    pieces_sha256: str | None = Field(None, pattern=SHA256, description="SHA-256 of the SentencePiece model, in hex")
    head_below: float | None = Field(None, gt=0, description="perplexity below which a document is head")
    middle_below: float | None = Field(None, gt=0, description="perplexity below which it is middle, else tail")

    @field_validator("normalisation")
    @classmethod
    def _known(cls, name: str) -> str:
        return normalisation(name).name

    @model_validator(mode="after")
    def _complete(self) -> LanguageModelFile:
        if (self.pieces is None) != (self.pieces_sha256 is None):
            raise ValueError("expected both pieces and pieces_sha256 or neither, found one")
        head, middle = self.head_below, self.middle_below
        if (head is None) != (middle is None) or (head is not None and middle is not None and head > middle):
            raise ValueError(f"expected head_below <= middle_below or neither, found {head} and {middle}")
        return self


class PerplexityParams(Params):
    model: str | LanguageModelFile | dict[str, LanguageModelFile] = Field(
        "train_lm", description="name of the stage that trains it, a file, or a file for each value of `by`"
    )
    by: str | None = Field(None, description="string column whose value picks the model, as in `langid.language`")
    normalisation: str | None = Field(None, description="refuse a trained model of another one; none: take its own")
    where: list[str] = Field([], description="rules for the documents to score; the others get null")
    head_percentile: int = Field(30, ge=1, le=99, description="head: below this percentile of the reference")
    middle_percentile: int = Field(60, ge=1, le=100, description="middle: below this one, and not head")
    max_bytes: int = Field(SCORED_BYTES, ge=1, description="bytes of a document that are read")

    @field_validator("where")
    @classmethod
    def _rules(cls, rules: list[str]) -> list[str]:
        rule_columns(rules)
        return rules

    @model_validator(mode="after")
    def _consistent(self) -> PerplexityParams:
        if self.head_percentile > self.middle_percentile:
            raise ValueError(f"expected head_percentile <= middle_percentile, found {self.head_percentile} > "
                             f"{self.middle_percentile}")  # fmt: skip
        if not isinstance(self.model, str):
            if isinstance(self.model, dict) != (self.by is not None):
                raise ValueError("expected `by` with a file for each of its values, and one file without `by`")
            if self.normalisation is not None:
                raise ValueError("expected `normalisation` beside the path of a model file, found it outside")
        return self

    def bounded(self) -> bool:
        """Has every model bounds for the buckets?"""
        if isinstance(self.model, str):
            return True
        files = self.model.values() if isinstance(self.model, dict) else [self.model]
        return all(file.head_below is not None for file in files)


@dataclass(frozen=True)
class Loaded:
    """A model of each fold (one alone judges every document), what they read, and the bounds of head and middle."""

    models: list[kenlm.Model]
    text: LmText
    bounds: tuple[float, float] | None


@functools.lru_cache(maxsize=16)
def load_record(folder: Path) -> dict[str, Any]:
    """The record that `train_lm` left in a folder."""
    return json.loads((folder / RECORD_FILE).read_text())


@functools.lru_cache(maxsize=256)
def load_trained(folder: Path, group: str, head: int, middle: int) -> Loaded:
    """The models of one group of a folder that `train_lm` left; once for each process."""
    record = load_record(folder)
    entry = record["groups"][group]

    def checked(file: dict[str, str]) -> Path:
        return checked_file(folder / Path(file["name"]).name, file["sha256"])

    path = checked(entry["pieces"]) if entry["pieces"] else None
    text = LmText(
        bound_normalisation(record["normalisation"], str(folder)),
        Pieces(path.read_bytes(), str(path)) if path else None,
    )
    models = [load_model(checked(file)) for file in entry["files"]]
    return Loaded(models, text, (entry["percentiles"][head], entry["percentiles"][middle]))


@functools.lru_cache(maxsize=256)
def load_file(file: LanguageModelFile) -> Loaded:
    """The model of a file. Raises StageError where it is none."""
    pieces = None
    if file.pieces is not None and file.pieces_sha256 is not None:
        pieces = Pieces(checked_file(Path(file.pieces), file.pieces_sha256).read_bytes(), file.pieces)
    model = load_model(checked_file(Path(file.path), file.sha256))
    bounds = None if file.head_below is None or file.middle_below is None else (file.head_below, file.middle_below)
    return Loaded([model], LmText(normalisation(file.normalisation), pieces), bounds)


def _check_record(record: dict[str, Any], params: PerplexityParams) -> None:
    if record["by"] != params.by:
        raise StageError(
            f"models of {params.model}: expected `by: {record['by'] or 'null'}`, as they were trained, found "
            f"`by: {params.by or 'null'}`; give both stages the same"
        )
    trained = record["normalisation"]["name"]
    if params.normalisation is not None and params.normalisation != trained:
        raise StageError(
            f"models of {params.model}: expected text normalised by {trained}, as they were trained, found "
            f"`normalisation: {params.normalisation}`; give both stages the same"
        )


def _find(params: PerplexityParams, folder: Path | None, name: str) -> Loaded | None:
    """What scores documents with this value of `by`, if anything does."""
    if folder is not None:
        known = name in load_record(folder)["groups"]
        return load_trained(folder, name, params.head_percentile, params.middle_percentile) if known else None
    if isinstance(params.model, LanguageModelFile):
        return load_file(params.model)
    return load_file(params.model[name]) if isinstance(params.model, dict) and name in params.model else None


def _groups(batch: Batch, by: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """The values of a column with the rows that have them, as bool masks; without one, every row."""
    if by is None:
        yield "", np.ones(batch.num_rows, bool)
        return
    values = batch[by].cast(pa.string())
    for name in values.unique().drop_null().to_pylist():
        yield name, np.asarray(pc.fill_null(pc.equal(values, name), False), dtype=bool)


@doc_stage(
    "perplexity",
    PerplexityParams,
    reads=lambda p: tuple(dict.fromkeys(("doc_id", "text", *([p.by] if p.by else []), *rule_columns(p.where)))),
    adds=[("score", pa.float32()), ("bucket", pa.string())],
    rules=lambda p: [Rule.parse("bucket in [head, middle]")] if p.bounded() else [],
    artifacts=lambda p: (p.model,) if isinstance(p.model, str) else (),
)
def perplexity(batch: Batch, params: PerplexityParams, tools: Tools) -> dict[str, pa.Array]:
    """`score`: float32 perplexity; `bucket`: head, middle or tail.

    Null where `where` fails, where there is no model for the value of `by`, or no word; no bucket without bounds.
    """
    scores, places = np.full(batch.num_rows, np.nan, np.float32), np.full(batch.num_rows, -1)
    scored = matches(batch, params.where)
    folder, fold = None, np.zeros(batch.num_rows, np.int64)
    if isinstance(params.model, str):
        folder = tools.artifact(params.model)
        record = load_record(folder)
        _check_record(record, params)
        fold = folds(batch["doc_id"], record["seed"])
    for name, rows in _groups(batch, params.by):
        found = _find(params, folder, name)
        if found is None:
            continue
        for number, model in enumerate(found.models):
            unseen = rows & scored & ((fold != number) | (len(found.models) == 1))
            if unseen.any():
                texts = batch["text"].filter(pa.array(unseen))
                scores[unseen] = perplexities(model, found.text, texts, params.max_bytes)
        if found.bounds is not None:
            places[rows] = (scores[rows] >= found.bounds[0]).astype(int) + (scores[rows] >= found.bounds[1])
    missing = np.isnan(scores)
    names = np.array(["head", "middle", "tail"])[places]
    return {
        "score": pa.array(scores, mask=missing),
        "bucket": pa.array(names, pa.string(), mask=missing | (places < 0)),
    }
