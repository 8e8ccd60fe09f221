"""A toy source format and toy stages, so that the engine is tested without any real filter.

The format reads a text file: each line is a document; `!bad` is a broken record, `!junk` not a page.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import (
    DROPPED,
    INGEST_SCHEMA,
    KEPT,
    QUARANTINED,
    Batch,
    Out,
    Params,
    Rule,
    artifact_stage,
    doc_stage,
    global_stage,
    sink_stage,
    source_format,
)

BATCH = 7


class Lines(Params):
    slice_bytes: int = 200


def _split(fs, path, size, params):
    with fs.open_input_file(path) as stream:
        data = stream.read()
    cuts, at = [0], 0
    while at < len(data):
        end = data.find(b"\n", min(at + params.slice_bytes, len(data) - 1)) + 1 or len(data)
        cuts.append(end)
        at = end
    return list(itertools.pairwise(cuts)) or [(0, 0)]


@source_format("toy_lines", Lines, split=_split)
def read(fs, path, start, end, params):
    with fs.open_input_file(path) as stream:
        data = stream.read()
    rows, at = [], start
    for line in data[start:end].splitlines(keepends=True):
        rows.append((at, line.rstrip(b"\n").decode()))
        at += len(line)
    for i in range(0, len(rows), BATCH):
        part = rows[i : i + BATCH]
        n = len(part)
        bad = [text.startswith("!bad") for _, text in part]
        junk = [text.startswith("!junk") for _, text in part]
        values = {
            "record_offset": [offset for offset, _ in part],
            "url": [f"http://toy.example/{offset}" for offset, _ in part],
            "text": [None if b else text for (_, text), b in zip(part, bad, strict=True)],
            "verdict": [QUARANTINED if b else DROPPED if j else KEPT for b, j in zip(bad, junk, strict=True)],
            "reason": ["broken" if b else "junk" if j else None for b, j in zip(bad, junk, strict=True)],
            "error": ["broken record" if b else None for b in bad],
            "raw": [text.encode() if b else None for (_, text), b in zip(part, bad, strict=True)],
        }
        yield pa.RecordBatch.from_pydict(
            {f.name: pa.array(values.get(f.name, [None] * n), f.type) for f in INGEST_SCHEMA}, INGEST_SCHEMA
        )


class Empty(Params):
    pass


calls: list[tuple[str, int]] = []


@doc_stage("toy_length", Empty, reads=("text",), adds=[("chars", pa.int32())], rules=[Rule.parse("chars >= 5")])
def toy_length(batch: Batch, params: Empty, tools) -> dict[str, pa.Array]:
    """Count characters; fails on a text with `explode`."""
    calls.append(("toy_length", batch.num_rows))
    if any("explode" in text for text in batch["text"].to_pylist()):
        raise ValueError("a text that explodes")
    return {"chars": pc.utf8_length(batch["text"])}


@doc_stage("toy_ratio", Empty, reads=("text",), adds=[("ratio", pa.float64())])
def toy_ratio(batch: Batch, params: Empty, tools) -> dict[str, pa.Array]:
    """NaN for the two-letter text."""
    return {"ratio": pa.array([float("nan") if len(text) == 2 else 1.0 for text in batch["text"].to_pylist()])}


class Broken(Params):
    how: str = Field("rows", description="what to break")


@doc_stage("toy_broken", Broken, reads=("text",), adds=[("n", pa.int32())], drops=True)
def toy_broken(batch: Batch, params: Broken, tools) -> Out:
    """A stage that loses documents in one of several ways."""
    n = batch.num_rows
    if params.how == "rows":
        return Out({"n": pa.array(range(max(0, n - 1)), pa.int32())})
    if params.how == "reason":
        return Out({"n": pa.array(range(n), pa.int32())}, drop=np.ones(n, bool))
    raise RuntimeError("always fails")


@doc_stage("toy_upper", Empty, reads=("text",), adds=[("text", pa.string())])
def toy_upper(batch: Batch, params: Empty, tools) -> dict[str, pa.Array]:
    """Rewrite the text."""
    return {"text": pc.utf8_upper(batch["text"])}


@global_stage(
    "toy_unique",
    Empty,
    reads=("text",),
    sketch=lambda batch, params, tools: {"key": batch["text"]},
    sketch_schema=[("key", pa.string())],
    adds=[("cluster_id", pa.string())],
)
def toy_unique(corpus, params, tools) -> Out:
    """Keep the first copy of each text by document id."""
    keys, ids = corpus.column("key").to_pylist(), corpus.column("doc_id").to_pylist()
    first: dict[str, str] = {}
    for key, doc in sorted(zip(keys, ids, strict=True)):
        first.setdefault(key, doc)
    drop = np.array([first[key] != doc for key, doc in zip(keys, ids, strict=True)], bool)
    clusters = pa.array([first[key] for key in keys], pa.string())
    return Out({"cluster_id": clusters}, drop=drop, reason=pa.array(["copy"] * len(keys), pa.string()))


machine = {"program": "1.0"}


@artifact_stage("toy_count", Empty, reads=("text",), publish="toy", identity=lambda params: machine["program"])
def toy_count(corpus, params, out, tools) -> dict:
    """Count all characters of the corpus."""
    total = sum(pc.sum(pc.utf8_length(batch["text"])).as_py() for batch in corpus.batches("text"))
    (out / "total.txt").write_text(str(total))
    return {"total": total}


@sink_stage(
    "toy_sink",
    Empty,
    reads=("doc_id", "text"),
    artifacts=("toy_count",),
    publish="tokens",
    index=lambda shards, params, tools: {"shards": shards},
)
def toy_sink(batch: Batch, params: Empty, tools) -> dict[str, pa.RecordBatch]:
    """Write the text of every document that is left."""
    assert (tools.artifact("toy_count") / "total.txt").exists()
    n = pc.utf8_length(batch["text"])
    return {"train": pa.RecordBatch.from_pydict({"doc_id": batch["doc_id"], "text": batch["text"], "n": n})}
