"""Names of persons and places by a model: Microsoft Presidio (`pip install tamis[ner]`).

What has no form of its own (a name, a street) takes a tagger. Presidio's analyzer runs a spaCy model over each
document and the spans of the chosen entities become placeholders, `<PERSON>`. Run it after `pii` and on little text:
with the small English model Presidio read 17 kB a CPU-second, a ten-thousandth of what `pii` does, and on a sixth of
the gold texts found persons with precision .72 and recall .69. The model is not part of the extra; install one that
spaCy can load by name or path.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.stage import Batch, Params, StageError, Tools, doc_stage

SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string()), ("rule", pa.string())])


class PiiNer(Params):
    model: str = Field(
        "en_core_web_sm",
        pattern=r"^[a-z]{2,3}_[a-z]+_[a-z]+_(sm|md|lg|trf)$|/",
        description="spaCy model: a published name such as en_core_web_sm, or a path with a slash",
    )
    language: str = Field("en", description="language of the model; documents in others are not recognised")
    entities: tuple[str, ...] = Field(("PERSON", "LOCATION"), description="Presidio entities to replace", min_length=1)
    min_score: float = Field(0.5, description="least score of a span", ge=0, le=1)
    max_chars: int = Field(100_000, description="longest piece given to the model at once; cut at white space", ge=1000)


@cache
def _analyzer(model: str, language: str) -> Any:
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
    except ImportError as error:
        raise StageError(f"pii_ner: expected the package presidio-analyzer, found none ({error}); "
                         "install the extra: pip install tamis[ner]") from error  # fmt: skip
    try:
        nlp = spacy.load(model)
    except OSError as error:
        raise StageError(f"pii_ner.model: expected a spaCy model that is installed or a path, found {model!r}; "
                         "install the model's package") from error  # fmt: skip
    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": model}])
    vars(engine)["nlp"] = {language: nlp}
    return AnalyzerEngine(nlp_engine=engine, supported_languages=[language])


def pieces(text: str, limit: int) -> list[tuple[int, str]]:
    """`(offset, piece)` of at most `limit` characters, cut after white space where there is any."""
    found, at = [], 0
    while at < len(text):
        end = min(at + limit, len(text))
        cut = max(text.rfind(" ", at, end), text.rfind("\n", at, end)) if end < len(text) else end - 1
        end = cut + 1 if cut > at else end
        found.append((at, text[at:end]))
        at = end
    return found


def spans_of(text: str, analyzer: Any, params: PiiNer) -> list[tuple[int, int, str]]:
    """Disjoint spans (start, end, entity) in characters, ascending; of overlapping ones the best, then the longer."""
    results = []
    for offset, piece in pieces(text, params.max_chars):
        for found in analyzer.analyze(piece, language=params.language, entities=list(params.entities)):
            if found.score >= params.min_score:
                results.append((-found.score, found.start - found.end, found.start + offset, found.end + offset,
                                found.entity_type))  # fmt: skip
    kept: list[tuple[int, int, str]] = []
    last_of: set[int] = set()
    for _, _, start, end, entity in sorted(results):
        if last_of.isdisjoint(range(start, end)):
            last_of.update(range(start, end))
            kept.append((start, end, entity))
    return sorted(kept)


@doc_stage("pii_ner", PiiNer, reads=("text",),
           adds=[("text", pa.string()), ("entities", pa.int32()), ("spans", pa.list_(SPAN))])  # fmt: skip
def pii_ner(batch: Batch, params: PiiNer, tools: Tools) -> dict[str, pa.Array]:
    """Replace names found by a model with placeholders such as `<PERSON>`.

    Adds the new `text`, how many `entities` were replaced and `spans`: start and end in bytes of UTF-8 of the old text,
    type (the entity) and rule (the model). Raises StageError where Presidio or the model is not installed.
    """
    analyzer = _analyzer(params.model, params.language)
    texts: list[str | None] = []
    counts: list[int | None] = []
    spans: list[list[dict] | None] = []
    for text in batch["text"].to_pylist():
        if text is None:
            texts.append(None)
            counts.append(None)
            spans.append(None)
            continue
        found = spans_of(text, analyzer, params)
        parts, row, at, byte = [], [], 0, 0
        for start, end, entity in found:
            parts += [text[at:start], f"<{entity}>"]
            first = byte + len(text[at:start].encode())
            byte = first + len(text[start:end].encode())
            row.append({"start": first, "end": byte, "type": entity, "rule": params.model})
            at = end
        texts.append("".join([*parts, text[at:]]))
        counts.append(len(found))
        spans.append(row)
    return {"text": pa.array(texts, pa.string()), "entities": pa.array(counts, pa.int32()),
            "spans": pa.array(spans, pa.list_(SPAN))}  # fmt: skip
