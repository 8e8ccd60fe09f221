"""The four heuristic stages run on plain strings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import pyarrow as pa
import pytest

from pipeline.stage import Batch, stage_types
from stages.c4 import C4
from stages.fineweb import FineWeb
from stages.gopher_quality import GopherQuality
from stages.gopher_repetition import GopherRepetition

PARAMS = {"gopher_quality": GopherQuality, "gopher_repetition": GopherRepetition, "c4": C4, "fineweb": FineWeb}

needs_spacy = pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy is not installed (tamis[datatrove])")
needs_uniseg = pytest.mark.skipif(find_spec("uniseg") is None, reason="uniseg is not installed (tamis[dclm])")


def variants() -> list:
    """`(stage, params)` of each variant, skipped where its optional package is absent."""
    c4 = [{"variant": "datatrove", "terminal_punctuation": mark} for mark in (True, False)]
    found: list[tuple[str, dict]] = [
        *(("gopher_quality", {"variant": name}) for name in ("paper", "datatrove", "dolma", "dclm")),
        *(("gopher_repetition", {"variant": name}) for name in ("paper", "datatrove", "dolma", "dclm")),
        *(("c4", params) for params in ({"variant": "tfds"}, *c4)),
        *(("fineweb", {"variant": name}) for name in ("paper", "code")),
    ]
    marks = {"datatrove": [needs_spacy], "code": [needs_spacy]}
    return [
        pytest.param(stage, params, marks=[needs_uniseg] if (stage, params["variant"]) == ("gopher_repetition", "dclm")
                     else marks.get(params["variant"], []))
        for stage, params in found
    ]  # fmt: skip


def run(stage: str, texts: Sequence[str | None], columns: dict[str, Sequence] | None = None, **params) -> list[dict]:
    """The stage's columns as one dict for each text, checked against the declared schema."""
    kind = stage_types()[stage]
    given = {"text": pa.array(texts, pa.string())} | {
        name: pa.array(values) for name, values in (columns or {}).items()
    }
    found = kind.run(Batch(given, len(texts)), PARAMS[stage](**params), None)
    assert {name: array.type for name, array in found.items()} == {f.name: f.type for f in kind.adds}
    assert all(len(array) == len(texts) for array in found.values())
    for array in found.values():
        array.validate(full=True)
    return pa.table({field.name: found[field.name] for field in kind.adds}).to_pylist()


def kept(stage: str, text: str, **params) -> list[str]:
    """Names of the rules that a text breaks."""
    kind, chosen = stage_types()[stage], PARAMS[stage](**params)
    row = run(stage, [text], **params)[0]
    return [
        r.name for r in kind.rules(chosen) if not r.holds(pa.array([row[r.column]], kind.adds.field(r.column).type))[0]
    ]
