"""Train KenLM n-gram models on documents drawn by stated rules, so that no document is judged by a model that saw it.

An unpruned 5-gram repeats what it learned: on documents of its own training text the perplexity falls to about 3, good
or bad. So the sample is cut in two folds by hash, each fold trains a model, and each document of the corpus is scored
by the model of the other fold (cross-fitting). The models, their text normalisation and their cut-offs are one
artifact, since a perplexity means nothing without the others: cut-offs are percentiles of the sample's own
cross-fitted scores, never constants from another model. Units are the words of the normalisation (see
`stages.text_normal`), not subword pieces: no further model to bind, at the price that every unknown word costs the
same.

Trade-off: two models of half the text instead of one. Without `lmplz` on the PATH they are estimated in pure Python
from `pure_python_words` words, which takes 7 CPU-seconds and makes weak models; lmplz needs 20 seconds for 20 MB.
Method: CCNet (Wenzek et al. 2020), a 5-gram of one language with Kneser-Ney smoothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kenlm
import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.stage import Corpus, Params, StageError, Tools, artifact_stage, unit_hash
from stages.kenlm_build import build, builder
from stages.sampling import draw, rule_columns
from stages.text_normal import SCORED_BYTES, Normalisation, file_sha256, normalisation

RECORD_FILE = "artifact.json"
FOLDS = 2
_SALT = "train_lm"


class TrainLmParams(Params):
    where: list[str] = Field([], description="rules for the documents to learn from, as in `langid.language == en`")
    normalisation: str = Field("tamis/1", description="named text normalisation")
    order: int = Field(5, ge=2, le=5, description="longest n-gram, in words")
    max_docs: int = Field(100_000, ge=1, description="documents at most")
    max_bytes: int = Field(32_000_000, ge=1, description="characters of text at most")
    min_docs: int = Field(50, ge=20, description="fewer documents are an error")
    max_measured: int = Field(5_000, ge=20, description="documents at most that give the percentiles")
    pure_python_words: int = Field(220_000, ge=1_000, description="words to learn from without lmplz, both folds")
    memory_mb: int = Field(512, ge=64, description="memory of lmplz, in MB")

    @field_validator("where")
    @classmethod
    def _rules(cls, rules: list[str]) -> list[str]:
        rule_columns(rules)
        return rules

    @field_validator("normalisation")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "tamis/1":
            raise ValueError(f"expected tamis/1, the normalisation with words for a language model, found {name!r}")
        return name


def fold_of(hashes: np.ndarray) -> np.ndarray:
    """int64 of shape (n,): the fold, 0 or 1, of documents with these hashes (`unit_hash`)."""
    return (hashes * 2.0**30).astype(np.int64) % FOLDS


def folds(doc_ids: pa.Array, seed: int) -> np.ndarray:
    """int64 of shape (n,): the fold of each document; model 1 - f has not seen documents of fold f."""
    return fold_of(unit_hash(doc_ids, seed, _SALT))


def load_model(path: Path) -> kenlm.Model:
    """A model from an ARPA file or a KenLM binary, without chatter on stderr."""
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    return kenlm.Model(str(path), config)


def perplexities(model: kenlm.Model, normal: Normalisation, texts: pa.Array, max_bytes: int) -> np.ndarray:
    """float32 of shape (n,): perplexity for each word and line end; NaN for a text without a word.

    10^(-sum of log10 p / sum of (words + 1)) over the lines of the normalised text.
    """
    folded, counts = normal(texts, max_bytes)
    score = model.score
    sums = np.array([sum(map(score, text.split(b"\n"))) for text in folded.cast(pa.binary()).to_pylist()], np.float64)
    units = counts.sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = np.where(counts[:, 0] > 0, 10.0 ** (-sums / units), np.nan)
    return np.minimum(values, np.finfo(np.float32).max).astype(np.float32)


def _write_lines(path: Path, normal: Normalisation, texts: list[str], max_words: int | None) -> tuple[int, int]:
    """Write normalised documents until `max_words` is reached; returns how many documents and words."""
    docs, words = 0, 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for start in range(0, len(texts), 256):
            folded, counts = normal(pa.array(texts[start : start + 256], pa.string()))
            for text, size in zip(folded.to_pylist(), counts[:, 0].tolist(), strict=True):
                if max_words is not None and words + size > max_words:
                    # the last document in part, by whole lines
                    for line in text.split("\n"):
                        if words + line.count(" ") + 1 > max_words:
                            return docs, words
                        words += line.count(" ") + 1
                        stream.write(line + "\n")
                    return docs, words
                if size:
                    stream.write(text + "\n")
                    docs, words = docs + 1, words + size
    return docs, words


@artifact_stage(
    "train_lm", TrainLmParams, reads=lambda p: tuple(dict.fromkeys(("doc_id", "text", *rule_columns(p.where))))
)
def train_lm(corpus: Corpus, params: TrainLmParams, out: Path, tools: Tools) -> dict[str, Any]:
    """Leaves a model for each fold and `artifact.json` (normalisation, builder, percentiles of the perplexity)."""
    normal, made_by = normalisation(params.normalisation), builder()
    sample = draw(corpus, {"where": params.where}, tools.seed, _SALT, params.max_docs, params.max_bytes)[0]["where"]
    fold = fold_of(np.array(sample.hashes))
    texts = [[sample.texts[row] for row in np.flatnonzero(fold == number)] for number in range(FOLDS)]
    if len(sample.texts) < params.min_docs or not all(texts):
        rules = " and ".join(params.where) or "every document"
        raise StageError(
            f"stage {tools.node}: expected at least {params.min_docs} documents for `where` ({rules}), found "
            f"{sample.seen}; loosen the rules, give more input, or lower min_docs"
        )
    max_words = None if made_by == "lmplz" else params.pure_python_words // FOLDS
    files, train_docs, train_words = [], 0, 0
    for number in range(FOLDS):
        text_file = out / "train.txt"
        docs, words = _write_lines(text_file, normal, texts[number], max_words)
        if words < params.order:
            raise StageError(f"stage {tools.node}: expected documents with words, found {words} words in {docs}")
        files.append(build(text_file, params.order, out, f"model-{number}", params.memory_mb))
        text_file.unlink()
        train_docs, train_words = train_docs + docs, train_words + words
    measured = []
    for number in range(FOLDS):
        some = texts[number][: params.max_measured // FOLDS]
        measured.append(perplexities(load_model(files[1 - number]), normal, pa.array(some, pa.string()), SCORED_BYTES))
    values = np.concatenate(measured).astype(np.float64)
    values = values[~np.isnan(values)]
    percentiles = [round(float(value), 3) for value in np.percentile(values, np.arange(101))]
    metrics = {
        "builder": made_by,
        "documents_found": sample.seen,
        "sample_documents": len(sample.texts),
        "train_documents": train_docs,
        "train_words": train_words,
        "measured_documents": len(values),
        "perplexity_p30": percentiles[30],
        "perplexity_p50": percentiles[50],
        "perplexity_p60": percentiles[60],
        "model_bytes": sum(path.stat().st_size for path in files),
    }
    record = {
        "type": "kenlm",
        "files": [{"name": path.name, "sha256": file_sha256(path)} for path in files],
        "seed": tools.seed,
        "order": params.order,
        "normalisation": {"name": normal.name, "fingerprint": normal.fingerprint},
        "percentiles": percentiles,  # of the sample's perplexity, 0 to 100
        "metrics": metrics,
    }
    (out / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return metrics
