"""The stage protocol: everything a stage may import from the engine, and nothing more.

A stage is a pure function on Arrow columns plus a frozen parameter model. It declares the columns that it
reads and adds, and registers itself under a name; the engine finds it there and never imports it by name.

Five kinds exist, by what they see and what they leave behind:

==============  ==========================================  ===============================================
decorator       sees                                        leaves
==============  ==========================================  ===============================================
doc_stage       a batch of live documents                   columns aligned with the batch, maybe verdicts
global_stage    a sketch of every live document, in memory  columns and verdicts for the whole corpus
exchange_stage  the same, in steps from file to file        columns and verdicts for the whole corpus
artifact_stage  the corpus, streamed                        files (a model, a tokenizer, a set of items)
sink_stage      a batch of live documents                   rows of its own schema (token shards)
==============  ==========================================  ===============================================

and `source_format` registers a reader that turns a slice of a file into records.

Trade-off: stages see Arrow arrays, not rows. A filter costs a little more thought to write, and runs 10 to 60
times faster than a Python function for each document.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline.errors import StageError as StageError  # stages raise it
from pipeline.rules import Expression as Expression  # and publish rules
from pipeline.rules import Rule as Rule
from pipeline.shuffle import read_blocks as read_blocks  # of what an earlier run published
from pipeline.steps import Alarms as Alarms
from pipeline.steps import Curve as Curve
from pipeline.steps import Emit as Emit
from pipeline.steps import Exchange as Exchange
from pipeline.steps import Step as Step
from pipeline.steps import Work as Work
from pipeline.steps import partition_of as partition_of

UNSEEN, KEPT, DROPPED, QUARANTINED = 0, 1, 2, 3
VERDICT_NAMES = ("unseen", "kept", "dropped", "quarantined")


class Params(BaseModel):
    """Base of every parameter model: unknown fields are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Batch:
    """Columns of the live documents of one part of a slice; all arrays have length `num_rows`.

    Names: `doc_id`, `source`, `file`, `record_offset`, `url`, `host`, `domain` (the registered one), `kind`,
    `licence`, `date`, `content_type`, `http_status`, `charset`, `robots_tag`, `html` and `text` are the document's own;
    every other column is `<node>.<column>`, as in `langid.language`. `text` is the newest version of the text.
    """

    def __init__(self, columns: Mapping[str, pa.Array], num_rows: int) -> None:
        self._columns = dict(columns)
        self.num_rows = num_rows
        self._memo: dict[Any, Any] = {}

    def __getitem__(self, name: str) -> pa.Array:
        return self._columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """Result of `make`, computed once for this batch: lets filters share one tokenising pass."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def put(self, columns: Mapping[str, pa.Array]) -> None:
        """Add or replace columns (the engine's side: stages never change a batch)."""
        self._columns.update(columns)

    def reset_memo(self) -> None:
        """Forget shared results, when the text has changed."""
        self._memo.clear()

    def take(self, rows: np.ndarray) -> Batch:
        """The batch of the given row numbers (int64), in that order."""
        index = pa.array(rows, pa.int64())
        return Batch({name: array.take(index) for name, array in self._columns.items()}, len(rows))


@dataclass
class Out:
    """What a stage says about a batch (or, for a global stage, about the corpus): one entry for each row.

    `drop` is bool; where it is true `reason` (string) must be given, and `score` / `threshold` (float64) say
    which number decided, where a number did. `quarantine` maps a row to the error that makes it unusable.
    """

    columns: dict[str, pa.Array] = field(default_factory=dict)
    drop: pa.Array | np.ndarray | None = None
    reason: pa.Array | None = None
    score: pa.Array | np.ndarray | None = None
    threshold: pa.Array | np.ndarray | None = None
    quarantine: dict[int, str] = field(default_factory=dict)


class Tools(Protocol):
    """What the engine hands to a running stage."""

    seed: int
    node: str

    def artifact(self, node: str) -> Path:
        """Folder with the files that the artifact node left. Its name changes when its content does."""
        ...


class Corpus(Protocol):
    """The live documents of all slices in corpus order (source name, file, offset), read from storage."""

    num_docs: int

    def batches(self, *columns: str) -> Iterator[Batch]:
        """Stream the named columns, at most a few thousand documents at a time."""
        ...

    def column(self, name: str) -> pa.ChunkedArray:
        """One small column of all documents in memory; sketch columns by their bare name."""
        ...

    def take(self, name: str, rows: np.ndarray) -> pa.Array:
        """Values of a column for the given document numbers (ascending int64), reading only their parts."""
        ...


@dataclass(frozen=True)
class Shards:
    """How the rows of a sink are cut into files: `measure` names an integer column that sizes a row (empty: each row
    counts one); a file holds rows of about `target` in sum, a row group of about `group`."""

    measure: str = ""
    target: int = 1 << 20
    group: int = 1 << 14


@dataclass(frozen=True)
class StageType:
    """A registered stage. `adds` names the columns it provides; `text` among them replaces the text."""

    name: str
    kind: str  # doc | global | exchange | artifact | sink
    params: type[Params]
    version: int
    run: Callable[..., Any]
    reads: Callable[[Any], tuple[str, ...]]
    adds: pa.Schema
    drops: bool
    rules: Callable[[Any], list[Rule]]
    artifacts: Callable[[Any], tuple[str, ...]]
    sketch: Callable[..., dict[str, pa.Array]] | None
    sketch_schema: pa.Schema | None
    publish: str | None
    index: Callable[..., dict] | None
    shards: Callable[[Any], Shards]
    identity: Callable[[Any], str]
    languages: Callable[[Any], tuple[str, tuple[str, ...]]] | None
    exchange: Exchange | None
    sketch_params: tuple[str, ...] | None  # those that the sketch depends on; None: all
    alarms: Callable[[Any], Alarms] | None
    curve: Callable[[Any], Curve] | None
    module: str

    @property
    def doc(self) -> str:
        return inspect.cleandoc(self.run.__doc__ or "")


@dataclass(frozen=True)
class FormatType:
    """A registered source format: `split` plans byte or row ranges, `read` yields INGEST_SCHEMA batches."""

    name: str
    params: type[Params]
    version: int
    split: Callable[..., list[tuple[int, int]]]
    read: Callable[..., Iterator[pa.RecordBatch]]
    prepare: Callable[..., list[str]] | None
    module: str


INGEST_SCHEMA = pa.schema(
    [
        ("record_offset", pa.int64()),  # byte offset of the record (WARC, JSONL) or row number (Parquet)
        ("url", pa.string()),
        ("content_type", pa.string()),
        ("http_status", pa.int16()),
        ("charset", pa.string()),  # as the HTTP header states it, null when it does not
        ("robots_tag", pa.string()),  # X-Robots-Tag of the HTTP header; several are joined by commas
        ("kind", pa.string()),  # of the document, as the record states it (wiki, book, code, ...); null: the source's
        ("licence", pa.string()),  # as the record states it; null: the source's
        ("date", pa.timestamp("ms")),  # UTC, 1990..2100: of the fetch (WARC), or as the record states it
        ("html", pa.binary()),  # body after transfer and content decoding; null when the source holds text
        ("text", pa.string()),  # null when the source holds HTML
        ("verdict", pa.uint8()),  # KEPT, DROPPED or QUARANTINED
        ("reason", pa.string()),  # of a drop, or the short class of an error
        ("error", pa.string()),  # of a quarantine, one line
        ("raw", pa.binary()),  # of a quarantine, the bytes at hand (the engine caps them)
    ]
)

_STAGES: dict[str, StageType] = {}
_FORMATS: dict[str, FormatType] = {}


def _as_function(value: Any, empty: Any) -> Callable[[Any], Any]:
    if callable(value):
        return value
    fixed = empty if value is None else value
    return lambda _params: fixed


def _register(kind: str, name: str, params: type[Params], run: Callable, **options: Any) -> StageType:
    if name in _STAGES and _STAGES[name].module != run.__module__:
        raise ValueError(f"two stages are named {name!r}: {_STAGES[name].module} and {run.__module__}")
    adds = options.get("adds") or []
    if any(field.startswith("_") for field in pa.schema(adds).names):
        raise ValueError(f"stage {name}: column names that start with an underscore belong to the engine")
    stage = StageType(
        name=name,
        kind=kind,
        params=params,
        version=options.get("version", 1),
        run=run,
        reads=_as_function(options.get("reads"), ()),
        adds=adds if isinstance(adds, pa.Schema) else pa.schema(adds),
        drops=options.get("drops", kind in ("global", "exchange")),
        rules=_as_function(options.get("rules"), []),
        artifacts=_as_function(options.get("artifacts"), ()),
        sketch=options.get("sketch"),
        sketch_schema=pa.schema(options["sketch_schema"]) if "sketch_schema" in options else None,
        publish=options.get("publish"),
        index=options.get("index"),
        shards=_as_function(options.get("shards"), Shards()),
        identity=_as_function(options.get("identity"), ""),
        languages=options.get("languages"),
        exchange=options.get("exchange"),
        sketch_params=options.get("sketch_params"),
        alarms=options.get("alarms"),
        curve=options.get("curve"),
        module=run.__module__,
    )
    _STAGES[name] = stage
    return stage


def doc_stage(name: str, params: type[Params], *, reads: Any, adds: Any = None, drops: bool = False, rules: Any = None,
              artifacts: Any = None, version: int = 1, identity: Callable[[Any], str] | None = None,
              languages: Callable[[Any], tuple[str, tuple[str, ...]]] | None = None) -> Callable:  # fmt: skip
    """Register `fn(batch, params, tools) -> Out | dict[str, pa.Array]`.

    `rules(params)` lists the published thresholds of a scoring stage over its own columns; a `select` stage
    applies them. Only a stage with `drops=True` may drop by itself. `artifacts(params)` names the artifact
    nodes whose folders `tools.artifact(name)` gives. `identity(params)` says, when the plan is made, what the
    result depends on beside code, parameters and inputs: the hash of a model file, the version of a program.
    `languages(params)` gives the column with the language of a document (empty: all are taken for the one
    language) and the languages that have settings; the run reports the documents of others.
    """

    def wrap(fn: Callable) -> Callable:
        _register("doc", name, params, fn, reads=reads, adds=adds, drops=drops, rules=rules, artifacts=artifacts,
                  version=version, identity=identity, languages=languages)  # fmt: skip
        return fn

    return wrap


def global_stage(name: str, params: type[Params], *, reads: Any, sketch: Callable, sketch_schema: Any, adds: Any,
                 version: int = 1) -> Callable:  # fmt: skip
    """Register `fn(corpus, params, tools) -> Out` over all live documents, in corpus order.

    `sketch(batch, params, tools) -> dict[str, pa.Array]` runs first, for each batch, fused with the stages
    before it; `corpus.column(name)` then gives its columns.
    """

    def wrap(fn: Callable) -> Callable:
        _register("global", name, params, fn, reads=reads, adds=adds, sketch=sketch, sketch_schema=sketch_schema,
                  version=version)  # fmt: skip
        return fn

    return wrap


def exchange_stage(name: str, params: type[Params], *, reads: Any, sketch: Callable, sketch_schema: Any, adds: Any,
                   exchange: Exchange, sketch_params: tuple[str, ...] | None = None,
                   identity: Callable[[Any], str] | None = None, alarms: Callable[[Any], Alarms] | None = None,
                   curve: Callable[[Any], Curve] | None = None, publish: str | None = None,
                   version: int = 1) -> Callable:  # fmt: skip
    """Register `fn(batch, rows, params, tools) -> Out`, the last step of a decision about the whole corpus.

    `sketch(batch, params, tools)` runs first, fused with the stages before it, and sees `reads`; the steps see its
    columns, `doc_id` and `reads`. `fn` gets the rows of the output `exchange.verdicts` about the documents of a batch:
    a record batch sorted by `row`, the number within the batch, which takes the place of `doc`. `sketch_params`
    names the parameters that change the sketch: changing another one does not make it again. `alarms` and
    `curve` tell the report when too much was taken, and what the parameters mean.
    """

    def wrap(fn: Callable) -> Callable:
        _register("exchange", name, params, fn, reads=reads, adds=adds, sketch=sketch, sketch_schema=sketch_schema,
                  exchange=exchange, sketch_params=sketch_params, identity=identity, alarms=alarms, curve=curve,
                  publish=publish, version=version)  # fmt: skip
        return fn

    return wrap


def artifact_stage(name: str, params: type[Params], *, reads: Any = None, artifacts: Any = None,
                   publish: str | None = None, version: int = 1,
                   identity: Callable[[Any], str] | None = None) -> Callable:  # fmt: skip
    """Register `fn(corpus, params, out, tools) -> dict` that leaves files in the folder `out`.

    The returned numbers go to `stage.json` and the report. `publish` names a folder of the run directory that
    shows the newest artifact, such as `tokenizer`. `identity` as for `doc_stage`.
    """

    def wrap(fn: Callable) -> Callable:
        _register("artifact", name, params, fn, reads=reads, artifacts=artifacts, publish=publish, version=version,
                  identity=identity)  # fmt: skip
        return fn

    return wrap


def sink_stage(name: str, params: type[Params], *, reads: Any, artifacts: Any = None, publish: str,
               index: Callable[..., dict], shards: Callable[[Any], Shards] | None = None,
               version: int = 1) -> Callable:  # fmt: skip
    """Register `fn(batch, params, tools) -> dict[split, pa.RecordBatch]`: rows of its own schema, by split.

    The rows of each source and split are joined into Parquet files as `shards(params)` says, shown in the folder
    `publish` of the run directory beside `index.json`, which is `index(shards, params, tools)`. A shard is
    `{path, source, split, rows, bytes, sha256, sums}` with the sum of each integer column.
    """

    def wrap(fn: Callable) -> Callable:
        _register("sink", name, params, fn, reads=reads, artifacts=artifacts, publish=publish, index=index,
                  shards=shards, version=version)  # fmt: skip
        return fn

    return wrap


def source_format(name: str, params: type[Params], *, split: Callable, prepare: Callable | None = None,
                  version: int = 1) -> Callable:  # fmt: skip
    """Register `read(fs, path, start, end, params) -> Iterator[pa.RecordBatch]` of INGEST_SCHEMA.

    `split(fs, path, size, params) -> [(start, end), ...]` plans the slices of a file, disjoint and complete,
    from nothing but the file and the parameters. `fs` is a `pyarrow.fs.FileSystem`. A format that makes its
    own files has `prepare(params, folder) -> paths`: it runs once, before the plan, for a source without paths.
    """

    def wrap(fn: Callable) -> Callable:
        _FORMATS[name] = FormatType(name, params, version, split, fn, prepare, fn.__module__)
        return fn

    return wrap


def stage_types() -> Mapping[str, StageType]:
    return _STAGES


def format_types() -> Mapping[str, FormatType]:
    return _FORMATS


def unit_hash(doc_ids: pa.Array, seed: int, salt: str) -> np.ndarray:
    """Uniform float64 in [0, 1) for each document id (32 hex digits): the only source of random choices.

    The first 64 bits of the id are mixed with CRC-32 of `salt` and `seed` by SplitMix64 (Steele et al. 2014).
    """
    import zlib

    if len(doc_ids) == 0:
        return np.zeros(0)
    digits = np.frombuffer("".join(doc_ids.to_pylist()).encode(), np.uint8).reshape(-1, 32)[:, :16]
    nibbles = np.where(digits < 97, digits - 48, digits - 87).astype(np.uint64)
    value = np.zeros(len(nibbles), np.uint64)
    for column in range(16):
        value = (value << np.uint64(4)) | nibbles[:, column]
    with np.errstate(over="ignore"):
        value = value + np.uint64((zlib.crc32(salt.encode()) << 32 | (seed & 0xFFFFFFFF)) * 0x9E3779B97F4A7C15 % 2**64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return (value >> np.uint64(11)).astype(np.float64) / 2.0**53
