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


def run(stage: str, texts: Sequence[str | None], **params) -> list[dict]:
    """The stage's columns as one dict for each text, checked against the declared schema."""
    kind = stage_types()[stage]
    columns = kind.run(Batch({"text": pa.array(texts, pa.string())}, len(texts)), PARAMS[stage](**params), None)
    assert {name: array.type for name, array in columns.items()} == {f.name: f.type for f in kind.adds}
    assert all(len(array) == len(texts) for array in columns.values())
    for array in columns.values():
        array.validate(full=True)
    return pa.table({field.name: columns[field.name] for field in kind.adds}).to_pylist()


def kept(stage: str, text: str, **params) -> list[str]:
    """Names of the rules that a text breaks."""
    kind, chosen = stage_types()[stage], PARAMS[stage](**params)
    row = run(stage, [text], **params)[0]
    return [
        r.name for r in kind.rules(chosen) if not r.holds(pa.array([row[r.column]], kind.adds.field(r.column).type))[0]
    ]
