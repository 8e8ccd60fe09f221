"""The four heuristic stages run on plain strings."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.stage import Batch, stage_types
from stages.c4 import C4
from stages.fineweb import FineWeb
from stages.gopher_quality import GopherQuality
from stages.gopher_repetition import GopherRepetition

PARAMS = {"gopher_quality": GopherQuality, "gopher_repetition": GopherRepetition, "c4": C4, "fineweb": FineWeb}


def variants() -> list:
    """`(stage, params)` of each variant."""
    c4 = [{"variant": "datatrove", "terminal_punctuation": mark} for mark in (True, False)]
    return [
        *(("gopher_quality", {"variant": name}) for name in ("paper", "datatrove", "dolma", "dclm")),
        *(("gopher_repetition", {"variant": name}) for name in ("paper", "datatrove", "dolma", "dclm")),
        *(("c4", params) for params in ({"variant": "tfds"}, *c4)),
        *(("fineweb", {"variant": name}) for name in ("paper", "code")),
    ]


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
