"""Score documents with a KenLM language model: perplexity for each word, and CCNet's head, middle or tail.

The model is one that the same manifest trains (of its two, the one that has not seen the document), or a file named
with its SHA-256 and cut-offs. It is used only with the text normalisation that it was trained with.
Published rule: `bucket in [head, middle]`, which drops 40 % of the sample at the default percentiles, as CCNet does.
Trade-off: perplexity measures likeness to the training sample. Text of another kind or language scores badly whatever
its worth, so `where` limits what is scored (rows that fail get null), and the percentiles are choices.
Method: CCNet (Wenzek et al. 2020), but line by line. Measured at 18 MB (6.6 M-word model) to
30 MB of text for each CPU-second; KenLM's lookups bound it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import kenlm
import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipeline.stage import Batch, Params, Rule, StageError, Tools, doc_stage
from stages.sampling import matches, rule_columns
from stages.text_normal import SCORED_BYTES, Normalisation, bound_normalisation, checked_file, normalisation
from stages.train_lm import RECORD_FILE, folds, load_model, perplexities


class LanguageModelFile(Params):
    """A KenLM model from a file. A binary is mapped into memory as it is, so its checksum must be known."""

    path: str = Field(description="ARPA file or KenLM binary over the words of the normalisation")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file, in hex")
    normalisation: str = Field("tamis/1", description="named text normalisation that the model was trained with")
    head_below: float = Field(gt=0, description="perplexity below which a document is head")
    middle_below: float = Field(gt=0, description="perplexity below which a document is middle, else tail")

    @field_validator("normalisation")
    @classmethod
    def _known(cls, name: str) -> str:
        return normalisation(name).name


class PerplexityParams(Params):
    model: str | LanguageModelFile = Field("train_lm", description="name of the stage that trains it, or a file")
    where: list[str] = Field([], description="rules for the documents to score; the others get null")
    head_percentile: int = Field(30, ge=1, le=99, description="head: below this percentile of the held-out documents")
    middle_percentile: int = Field(60, ge=1, le=100, description="middle: below this one, and not head")
    max_bytes: int = Field(SCORED_BYTES, ge=1, description="bytes of a document that are read")

    @field_validator("where")
    @classmethod
    def _rules(cls, rules: list[str]) -> list[str]:
        rule_columns(rules)
        return rules

    @model_validator(mode="after")
    def _ordered(self) -> PerplexityParams:
        if self.head_percentile > self.middle_percentile:
            raise ValueError(f"expected head_percentile <= middle_percentile, found {self.head_percentile} > "
                             f"{self.middle_percentile}")  # fmt: skip
        return self


@functools.lru_cache(maxsize=4)
def load_trained(folder: Path) -> tuple[dict, list[kenlm.Model], Normalisation]:
    """`(record, models, normalisation)` of a folder that `train_lm` left; once for each process."""
    record = json.loads((folder / RECORD_FILE).read_text())
    normal = bound_normalisation(record["normalisation"], str(folder))
    files = [checked_file(folder / Path(file["name"]).name, file["sha256"]) for file in record["files"]]
    return record, [load_model(path) for path in files], normal


@functools.lru_cache(maxsize=4)
def load_file(file: LanguageModelFile) -> tuple[kenlm.Model, Normalisation]:
    """`(model, normalisation)` of a model file. Raises StageError where it is none."""
    path = checked_file(Path(file.path), file.sha256)
    try:
        return load_model(path), normalisation(file.normalisation)
    except (OSError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise StageError(
            f"model file {path}: expected an ARPA file or KenLM binary, found neither ({found})"
        ) from error


@doc_stage(
    "perplexity",
    PerplexityParams,
    reads=lambda p: tuple(dict.fromkeys(("doc_id", "text", *rule_columns(p.where)))),
    adds=[("score", pa.float32()), ("bucket", pa.string())],
    rules=lambda p: [Rule.parse("bucket in [head, middle]")],
    artifacts=lambda p: (p.model,) if isinstance(p.model, str) else (),
)
def perplexity(batch: Batch, params: PerplexityParams, tools: Tools) -> dict[str, pa.Array]:
    """`score`: float32 perplexity; `bucket`: head, middle or tail. Null where `where` fails or no word is found."""
    scores = np.full(batch.num_rows, np.nan, np.float32)
    scored = matches(batch, params.where)
    if isinstance(params.model, str):
        record, models, normal = load_trained(tools.artifact(params.model))
        head, middle = (record["percentiles"][p] for p in (params.head_percentile, params.middle_percentile))
        fold = folds(batch["doc_id"], record["seed"])
        unseen = [(models[1 - number], scored & (fold == number)) for number in range(len(models))]
    else:
        model, normal = load_file(params.model)
        head, middle = params.model.head_below, params.model.middle_below
        unseen = [(model, scored)]
    for model, rows in unseen:
        if rows.any():
            scores[rows] = perplexities(model, normal, batch["text"].filter(pa.array(rows)), params.max_bytes)
    missing = np.isnan(scores)
    names = np.array(["head", "middle", "tail"])[(scores >= head).astype(int) + (scores >= middle)]
    return {"score": pa.array(scores, mask=missing), "bucket": pa.array(names, pa.string(), mask=missing)}
