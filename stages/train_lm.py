"""Train KenLM n-gram models on documents drawn by stated rules, so that no document is judged by a model that saw it.

An unpruned 5-gram repeats what it learned: on documents of its own training text the perplexity falls to about 3, good
or bad. So the sample is cut in two folds by hash, each fold trains a model, and each document of the corpus is scored
by the model of the other fold (cross-fitting). The models, what they read (normalisation and units) and their
percentiles are one artifact, since a perplexity means nothing without the others. CCNet's recipe is

    - train_lm: {where: ["kind == wiki"], reference: ["kind == crawl"], by: langid.language, units: sentencepiece,
                 normalisation: ccnet/1}
    - perplexity: {by: langid.language}

`where` names the documents to learn from, `reference` those whose scores give the percentiles (none: the same ones),
measured like any other document by the model that has not seen them. With `by` there is one model for each value of
a column that `min_docs` documents have; the others have none, and are listed in the record.

Trade-off: two models of half the text instead of one. Without KenLM's tools they are estimated in pure Python from
`pure_python_words` units, which takes 7 CPU-seconds and makes weak models; lmplz needs 20 seconds for 20 MB.
SentencePiece pieces know no unknown words and suit languages without spaces, at half the speed of words; one model
serves both folds, as perplexities over different pieces could not be compared. Memory: the drawn text of all groups.
Method: CCNet (Wenzek et al. 2020), a 5-gram of one language with Kneser-Ney smoothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.stage import Corpus, Params, StageError, Tools, artifact_stage, unit_hash
from stages.kenlm_build import build, builder
from stages.kenlm_score import load_model, perplexities
from stages.lm_text import LmText, Pieces, train_pieces
from stages.sampling import Drawn, draw, matches, rule_columns
from stages.text_normal import SCORED_BYTES, file_sha256, normalisation

RECORD_FILE = "artifact.json"
FOLDS = 2
_SALT = "train_lm"
_GROUP = re.compile(r"^[\w.-]+$")
_STEP = 256


class TrainLmParams(Params):
    where: list[str] = Field([], description="rules for the documents to learn from, as in `langid.language == en`")
    reference: list[str] = Field([], description="rules for the documents that give the percentiles; none: as `where`")
    by: str | None = Field(None, description="string column: a model for each of its values, as in `langid.language`")
    normalisation: str = Field("tamis/1", description="named text normalisation")
    units: Literal["words", "sentencepiece"] = Field("words", description="what the n-grams consist of")
    pieces: int = Field(65_536, ge=256, description="SentencePiece pieces at most; small samples give fewer")
    order: int = Field(5, ge=2, le=5, description="longest n-gram, in units")
    max_docs: int = Field(100_000, ge=1, description="documents of a model at most")
    max_bytes: int = Field(32_000_000, ge=1, description="characters of text of a model at most")
    min_docs: int = Field(50, ge=20, description="fewer documents are an error; with `by`, a value without a model")
    min_words: int = Field(1_000, ge=1, description="words of all documents of a model together; fewer are an error")
    max_measured: int = Field(5_000, ge=20, description="documents at most that give the percentiles")
    builder: Literal["auto", "lmplz", "python"] = Field("auto", description="auto: lmplz where it is on the PATH")
    pure_python_words: int = Field(220_000, ge=1_000, description="units that `python` learns from, both folds")
    memory_mb: int = Field(512, ge=64, description="memory of lmplz, in MB")

    @field_validator("where", "reference")
    @classmethod
    def _rules(cls, rules: list[str]) -> list[str]:
        rule_columns(rules)
        return rules

    @field_validator("normalisation")
    @classmethod
    def _known(cls, name: str) -> str:
        return normalisation(name).name


def fold_of(hashes: np.ndarray) -> np.ndarray:
    """int64 of shape (n,): the fold, 0 or 1, of documents with these hashes (`unit_hash`)."""
    return (hashes * 2.0**30).astype(np.int64) % FOLDS


def folds(doc_ids: pa.Array, seed: int) -> np.ndarray:
    """int64 of shape (n,): the fold of each document; model 1 - f has not seen documents of fold f."""
    return fold_of(unit_hash(doc_ids, seed, _SALT))


def _counts(corpus: Corpus, rules: list[str], by: str) -> Counter[str]:
    """How many documents that satisfy the rules have each value of the column."""
    found: Counter[str] = Counter()
    for batch in corpus.batches(*dict.fromkeys((by, *rule_columns(rules)))):
        values = batch[by].filter(pa.array(matches(batch, rules))).drop_null()
        found.update({item["values"]: item["counts"] for item in values.value_counts().to_pylist()})
    return found


def _sentences(text: LmText, texts: list[str]) -> Iterator[tuple[str, int]]:
    """Units of each document that has some, and how many."""
    for start in range(0, len(texts), _STEP):
        docs, counts = text(pa.array(texts[start : start + _STEP], pa.string()), SCORED_BYTES)
        yield from ((doc.decode(), size) for doc, size in zip(docs, counts[:, 0].tolist(), strict=True) if size)


def _write_lines(path: Path, text: LmText, texts: list[str], max_units: int | None) -> tuple[int, int]:
    """Write documents until `max_units` is reached, the last in part; returns how many documents and units."""
    docs, units = 0, 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for doc, size in _sentences(text, texts):
            if max_units is not None and units + size > max_units:
                for line in doc.split("\n"):
                    if units + line.count(" ") + 1 > max_units:
                        break
                    units += line.count(" ") + 1
                    stream.write(line + "\n")
                break
            stream.write(doc + "\n")
            docs, units = docs + 1, units + size
    return docs, units


def _lacking(sample: Drawn, reference: Drawn, params: TrainLmParams) -> str | None:
    """What documents of one group are too few for, or None."""
    text = LmText(normalisation(params.normalisation))
    rules = " and ".join(params.where) or "every document"
    if sample.seen < params.min_docs:
        return (f"expected at least {params.min_docs} documents for `where` ({rules}), found {sample.seen}; loosen the "
                "rules, give more input, or lower min_docs")  # fmt: skip
    fold = fold_of(np.array(sample.hashes))
    words = [sum(size for _, size in _sentences(text, _rows(sample, fold == number))) for number in range(FOLDS)]
    if sum(words) < params.min_words or not all(words):
        return (f"expected at least {params.min_words} words to learn from, and some in each half of the documents for "
                f"`where` ({rules}), found {' and '.join(map(str, words))}; loosen the rules, give more input, or "
                "lower min_words")  # fmt: skip
    measured = sum(1 for _ in _sentences(text, reference.texts))
    if measured < params.min_docs:
        rules = " and ".join(params.reference or params.where) or "every document"
        return (f"expected at least {params.min_docs} documents with words to take percentiles of ({rules}), found "
                f"{measured}; loosen `reference`, give more input, or lower min_docs")  # fmt: skip
    return None


def _rows(sample: Drawn, mask: np.ndarray) -> list[str]:
    return [sample.texts[row] for row in np.flatnonzero(mask)]


def _train(name: str, sample: Drawn, reference: Drawn, params: TrainLmParams, made_by: str, out: Path,
           node: str) -> tuple[dict[str, Any], dict[str, int]]:  # fmt: skip
    """Models, pieces and percentiles of one group: its entry of the record, and numbers for the report."""
    stem = f"{name}-" if name else ""
    text = LmText(normalisation(params.normalisation))
    pieces = None
    if params.units == "sentencepiece":
        lines = (line for doc, _ in _sentences(text, sample.texts) for line in doc.split("\n"))
        pieces = out / f"{stem}pieces.model"
        pieces.write_bytes(train_pieces(lines, params.pieces, f"stage {node}"))
        text = LmText(text.normal, Pieces(pieces.read_bytes(), str(pieces)))
    fold = fold_of(np.array(sample.hashes))
    max_units = None if made_by == "lmplz" else params.pure_python_words // FOLDS
    files, docs, units = [], 0, 0
    for number in range(FOLDS):
        text_file = out / "train.txt"
        more_docs, more_units = _write_lines(text_file, text, _rows(sample, fold == number), max_units)
        files.append(build(made_by, text_file, params.order, out, f"{stem}model-{number}", params.memory_mb))
        text_file.unlink()
        docs, units = docs + more_docs, units + more_units
    fold, measured = fold_of(np.array(reference.hashes)), []
    for number in range(FOLDS):
        some = pa.array(_rows(reference, fold == number)[: params.max_measured // FOLDS], pa.string())
        measured.append(perplexities(load_model(files[1 - number]), text, some, SCORED_BYTES))
    values = np.concatenate(measured).astype(np.float64)
    values = values[~np.isnan(values)]
    entry = {
        "files": [_named(path) for path in files],
        "pieces": _named(pieces) if pieces else None,
        "measured_documents": len(values),
        "percentiles": [round(float(value), 3) for value in np.percentile(values, np.arange(101))],
    }
    return entry, {
        "documents_found": sample.seen,
        "sample_documents": len(sample.texts),
        "train_documents": docs,
        "train_units": units,
        "measured_documents": len(values),
        "model_bytes": sum(path.stat().st_size for path in files),
    }


def _named(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": file_sha256(path)}


def _draw(corpus: Corpus, rules: list[str], groups: list[str], params: TrainLmParams, max_docs: int,
          seed: int) -> dict[str, Drawn]:  # fmt: skip
    classes = {name: [*rules, f"{params.by} in ['{name}']"] if name else rules for name in groups}
    return draw(corpus, classes, seed, _SALT, max_docs, params.max_bytes)[0]


@artifact_stage(
    "train_lm",
    TrainLmParams,
    reads=lambda p: tuple(
        dict.fromkeys(("doc_id", "text", *([p.by] if p.by else []), *rule_columns(p.where, p.reference)))
    ),
    identity=lambda p: builder(p.builder),
)
def train_lm(corpus: Corpus, params: TrainLmParams, out: Path, tools: Tools) -> dict[str, Any]:
    """Leaves models for each fold, maybe pieces, and `artifact.json`.

    The record holds normalisation, units, builder and, for each value of `by` (without: the empty name), the files
    with their SHA-256 and 101 percentiles of the perplexity of the reference.
    """
    made_by = builder(params.builder)
    groups, without = [""], {}
    if params.by:
        sizes = _counts(corpus, params.where, params.by)
        groups = sorted(name for name, size in sizes.items() if size >= params.min_docs and _GROUP.match(name))
        without = {name: f"found {size} documents" for name, size in sorted(sizes.items()) if name not in groups}
    if not groups:
        raise StageError(
            f"stage {tools.node}: expected a value of {params.by} with at least {params.min_docs} documents, found "
            f"{without or 'none'}; give more input, or lower min_docs"
        )
    samples = _draw(corpus, params.where, groups, params, params.max_docs, tools.seed)
    references = samples
    if params.reference:
        references = _draw(corpus, params.reference, groups, params, params.max_measured, tools.seed)
    entries: dict[str, Any] = {}
    numbers: Counter[str] = Counter()
    for name in groups:
        if lacking := _lacking(samples[name], references[name], params):
            without[name] = lacking
            continue
        entries[name], more = _train(name, samples[name], references[name], params, made_by, out, tools.node)
        numbers.update(more)
    if not entries:
        name, lacking = next((name, reason) for name, reason in without.items() if name in groups)
        raise StageError(f"stage {tools.node}: {f'{params.by} {name}: ' if name else ''}{lacking}")
    normal = normalisation(params.normalisation)
    metrics: dict[str, Any] = {"builder": made_by, "units": params.units, **numbers}
    if params.by:
        metrics |= {"models": list(entries), "without_model": without}
    else:
        metrics |= {f"perplexity_p{number}": entries[""]["percentiles"][number] for number in (30, 50, 60)}
    record = {
        "type": "kenlm",
        "seed": tools.seed,
        "order": params.order,
        "builder": made_by,
        "units": params.units,
        "normalisation": {"name": normal.name, "fingerprint": normal.fingerprint},
        "by": params.by,
        "groups": entries,
        "metrics": metrics,
    }
    (out / RECORD_FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return metrics
