"""The folders of a run directory that people and tools open: ledger, quarantine, tokens, tokenizer, probes.

Each is a set of hard links to committed files (copies where links are not possible), put in place one by one by
rename, with stale names removed last; `index.json` of a sink is published after its shards. Cost: one link a file.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from pipeline import exchange, shards
from pipeline.chain import tools_for
from pipeline.commit import Store
from pipeline.errors import TamisError
from pipeline.ledger import node_for
from pipeline.plan import Node, Plan, stage_of
from pipeline.storage import publish_json


def publish_ledger(run_dir: Path, plan: Plan) -> None:
    """RUN/ledger/part-*.parquet and RUN/quarantine/part-*.parquet, numbered in corpus order."""
    store, node = Store(run_dir), node_for(plan)
    for view, position in (("ledger", 0), ("quarantine", 1)):
        files = {}
        for piece in plan.slices:
            record = _record(store, node, piece.key)
            files[f"part-{piece.ordinal:05d}.parquet"] = store.folder(node) / record["files"][position]["path"]
        _show(run_dir / view, files)


def publish_artifact(run_dir: Path, plan: Plan, node: Node) -> None:
    """The files of an artifact under the folder that its stage names."""
    store = Store(run_dir)
    record = _record(store, node, "artifact")
    folder = store.folder(node) / record["folder"]
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    _show(run_dir / str(stage_of(node).publish), files)


def publish_exchange(run_dir: Path, plan: Plan, node: Node) -> None:
    """Run files that stay, and `index.json` over them."""
    files, index = exchange.show(run_dir, plan, node)
    view = run_dir / str(stage_of(node).publish)
    _show(view, files, keep=("index.json",))
    publish_json(view / "index.json", index)


def publish_sink(run_dir: Path, plan: Plan, node: Node) -> dict[str, Any]:
    """Shards `<split>-<source>-<number>.parquet` and the index over them; returns the index."""
    stage = stage_of(node)
    view = run_dir / str(stage.publish)
    found = shards.join(run_dir, plan, node)
    listed = [{**file, "path": name} for name, file in found.items()]
    assert stage.index is not None
    params = stage.params.model_validate(node.params)
    index = stage.index(listed, params, tools_for(Store(run_dir), plan, node))
    _show(view, {name: file["path"] for name, file in found.items()}, keep=("index.json",))
    publish_json(view / "index.json", index)
    return index


def _record(store: Store, node: Node, key: str) -> dict[str, Any]:
    record = store.commit(node, key)
    if record is None:
        raise TamisError(f"{node.folder}: expected a commit record for {key}, found none; run again")
    return record


def _show(view: Path, files: dict[str, Path], keep: tuple[str, ...] = ()) -> None:
    view.mkdir(parents=True, exist_ok=True)
    for name, target in files.items():
        place = view / name
        if place.exists() and os.path.samefile(place, target):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
        try:
            os.link(target, temporary)
        except OSError:
            shutil.copyfile(target, temporary)
        os.replace(temporary, place)
    for path in sorted(view.rglob("*")):
        if path.is_file() and str(path.relative_to(view)) not in files and path.name not in keep:
            path.unlink()
