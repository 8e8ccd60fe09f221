"""A sink's shards: the rows of all slices, joined and cut anew to one size for each source and split.

Slices give small files of uneven sizes, and how many depends on how the sources were cut. Here the rows of a source
and split are one sequence in corpus order, measured by a column such as the number of tokens; shard k holds the rows
that start in `[k * target, (k + 1) * target)` of that measure, row groups likewise. So the bytes of a shard depend on
the rows alone, not on slices or workers, and documents that are appended leave the earlier shards as they are.

Each shard is committed under a key that covers the parts it is cut from: a run that was killed goes on with those
that are missing. The cost: what a sink writes is written and kept twice, a tenth of the time that encoding takes;
threads of the driver join the shards, one shard each.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.commit import PartWriter, Store
from pipeline.errors import ConservationError, TamisError
from pipeline.plan import Node, Plan, stage_of
from pipeline.stage import Shards
from pipeline.storage import digest

VERSION = 1  # raise when other rows or bytes come out


@dataclass(frozen=True)
class Part:
    """What a slice wrote for a split, and where it begins in the measure of its source and split."""

    path: Path
    sha256: str
    rows: int
    begin: int
    end: int


@dataclass(frozen=True)
class Cut:
    """A shard to be: rows that start in [begin, end) of the measure, all of them in `parts`."""

    source: str
    split: str
    number: int
    begin: int
    end: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.source}-{self.number:05d}.parquet"

    def key(self, how: Shards) -> str:
        parts = [[part.sha256, part.begin] for part in self.parts]
        return digest([VERSION, self.name, self.begin, self.end, dataclasses.astuple(how), parts])[:16]


def join(run_dir: Path, plan: Plan, node: Node) -> dict[str, dict[str, Any]]:
    """Make the shards of a sink that are not committed yet; returns `{name: file entry}` of those with rows, each entry
    with `path` (absolute), rows, bytes, sha256, sums, source and split. Raises ConservationError when rows are lost."""
    store, stage = Store(run_dir), stage_of(node)
    how = stage.shards(stage.params.model_validate(node.params))
    own, pseudo = Store.at(store.folder(node)), dataclasses.replace(node, name="shards")
    streams = _streams(store, plan, node, how)
    cuts = [cut for (source, split), parts in streams.items() for cut in _cut(source, split, parts, how)]
    keys = {cut.key(how): cut for cut in cuts}
    todo = sorted(keys.keys() - own.committed(pseudo))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(lambda key: _make(own, pseudo, keys[key], key, how), todo):
            pass
    found: dict[str, dict[str, Any]] = {}
    believed = {f"{key}.json" for key in keys}
    for key, cut in keys.items():
        record = own.commit(pseudo, key)
        if record is None:
            raise TamisError(f"{own.folder(pseudo)}: expected a commit record for {key}, found none; run again")
        for file in record["files"]:
            found[cut.name] = {**file, "path": own.folder(pseudo) / file["path"]}
            believed.add(file["path"])
    _sweep(own.folder(pseudo), believed)
    expected = sum(part.rows for parts in streams.values() for part in parts)
    if expected != (rows := sum(file["rows"] for file in found.values())):
        raise ConservationError(f"stage {node.name}: expected {expected} rows in the shards, found {rows}")
    return dict(sorted(found.items()))


def _streams(store: Store, plan: Plan, node: Node, how: Shards) -> dict[tuple[str, str], list[Part]]:
    """The parts of each (source, split) in corpus order."""
    streams: dict[tuple[str, str], list[Part]] = {}
    for piece in plan.slices:
        record = store.commit(node, piece.key)
        if record is None:
            raise TamisError(f"{node.folder}: expected a commit record for {piece.key}, found none; run again")
        for file in record["files"]:
            parts = streams.setdefault((piece.source, file["split"]), [])
            begin = parts[-1].end if parts else 0
            size = file["sums"][how.measure] if how.measure else file["rows"]
            path = store.folder(node) / file["path"]
            parts.append(Part(path, file["sha256"], file["rows"], begin, begin + size))
    return streams


def _cut(source: str, split: str, parts: list[Part], how: Shards) -> list[Cut]:
    count = max(1, -(-parts[-1].end // how.target))
    cuts, first = [], 0
    for number in range(count):
        begin, end = number * how.target, (number + 1) * how.target
        if number == count - 1:
            end += 1  # rows without size may follow the last that has one
        while parts[first].end < begin:
            first += 1
        last = first
        while last < len(parts) and parts[last].begin < end:
            last += 1
        cuts.append(Cut(source, split, number, begin, end, tuple(parts[first:last])))
    return cuts


def _make(store: Store, node: Node, cut: Cut, key: str, how: Shards) -> None:
    """Write and commit one shard; a shard without rows, inside a row larger than the target, has no file."""
    writer: PartWriter | None = None
    sums: dict[str, int] = {}
    waiting: list[pa.RecordBatch] = []
    group = 0

    def flush() -> None:
        nonlocal writer
        if not waiting:
            return
        rows = pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
        waiting.clear()
        writer = writer or PartWriter(store.folder(node), key, rows.schema)
        writer.write(rows)
        for field, array in zip(rows.schema, rows.columns, strict=True):
            if pa.types.is_integer(field.type):
                sums[field.name] = sums.get(field.name, 0) + (pc.sum(array).as_py() or 0)

    try:
        for part in cut.parts:
            for rows, starts in _rows(part, cut, how):
                groups = (starts - cut.begin) // how.group
                edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
                for low, high in pairwise(edges):
                    if groups[low] != group:
                        flush()
                        group = int(groups[low])
                    waiting.append(rows.slice(low, high - low))
        flush()
    except BaseException:
        if writer:
            writer.discard()
        raise
    files = [{**writer.close(), "source": cut.source, "split": cut.split, "sums": sums}] if writer else []
    store.publish(node, key, files, {})


def _rows(part: Part, cut: Cut, how: Shards) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The rows of a part that belong to a shard, as (record batch, int64 starts), reading only their row groups."""
    with pq.ParquetFile(part.path) as file:
        if how.measure:
            sizes = file.read(columns=[how.measure], use_threads=False)[how.measure].to_numpy().astype(np.int64)
        else:
            sizes = np.ones(part.rows, np.int64)
        starts = part.begin + np.cumsum(sizes) - sizes
        low, high = np.searchsorted(starts, [cut.begin, cut.end])
        at = 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            begin, end = max(low, at), min(high, at + count)
            if begin < end:
                rows = file.read_row_group(number, use_threads=False).slice(begin - at, end - begin)
                yield rows.combine_chunks().to_batches()[0], starts[begin:end]
            at += count


def _sweep(folder: Path, believed: set[str]) -> None:
    """Remove shards of earlier cuts and what a killed attempt left. What is shown stays: it has a second link."""
    for path in [*folder.glob("commits/*.json"), *folder.glob("part-*.parquet")]:
        if path.name not in believed:
            path.unlink()
