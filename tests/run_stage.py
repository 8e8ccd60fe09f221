"""A scoring stage run on plain strings, outside the engine."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.stage import Batch, stage_types


def columns(stage: str, texts: pa.Array, **params) -> dict[str, pa.Array]:
    """The stage's columns, checked against the declared schema."""
    kind = stage_types()[stage]
    found = kind.run(Batch({"text": texts}, len(texts)), kind.params(**params), None)
    assert {name: array.type for name, array in found.items()} == {f.name: f.type for f in kind.adds}
    for array in found.values():
        assert len(array) == len(texts)
        array.validate(full=True)
    return found


def run(stage: str, texts: Sequence[str | None], **params) -> list[dict]:
    """One dict of columns for each text."""
    found = columns(stage, pa.array(texts, pa.string()), **params)
    names = [field.name for field in stage_types()[stage].adds]
    return pa.table({name: found[name] for name in names}).to_pylist()


def broken(stage: str, text: str, **params) -> list[str]:
    """Names of the published rules that a text breaks."""
    kind = stage_types()[stage]
    found = columns(stage, pa.array([text]), **params)
    return [rule.name for rule in kind.rules(kind.params(**params)) if not rule.holds(found[rule.column])[0]]


def check_null_and_slice(stage: str, text: str, **params) -> None:
    """A sliced array with a null gives null there, and elsewhere what the text alone gives."""
    sliced = pa.array(["skipped words", text, None, ""]).slice(1)
    whole = run(stage, [text, ""], **params)
    for name, array in columns(stage, sliced, **params).items():
        assert array.to_pylist() == [whole[0][name], None, whole[1][name]], name
    assert run(stage, [], **params) == []
