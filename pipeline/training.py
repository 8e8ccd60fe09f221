"""Launching the trainer on the shards: a process of its own, which reads only what the pipeline wrote.

Its events (one JSON object a line) become progress; what its libraries say goes to `train.log`. The launch is a
node like any other: committed under a fingerprint of its configuration and of everything that it reads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.commit import Store, Timer
from pipeline.errors import TamisError
from pipeline.plan import Node, Plan, stage_of
from pipeline.progress import Reporter
from pipeline.storage import digest, file_sha256, publish_json


def node_for(plan: Plan, config: dict[str, Any]) -> Node:
    """The training launch as a node: its fingerprint covers the trainer's source, configuration and inputs."""
    inputs = [node.fingerprint for node in plan.nodes if node.kind in ("sink", "artifact") and stage_of(node).publish]
    slices = plan.corpus_key()
    position = plan.nodes[-1].position + 2
    fingerprint = digest(["train", config, inputs, slices, _source_digest()])
    return Node("train", "train", "train", {}, (), {}, (), True, "", position, fingerprint)


def _source_digest() -> str:
    spec = importlib.util.find_spec("trainer")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(path for folder in folders for path in Path(folder).glob("*.py"))
    return digest([[path.name, file_sha256(path)] for path in files])


def is_done(run_dir: Path, plan: Plan, config: dict[str, Any]) -> bool:
    return Store(run_dir).commit(node_for(plan, config), "train") is not None and (run_dir / "train.jsonl").exists()


def train(run_dir: Path, plan: Plan, config: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Run `python -m trainer.launch`; raises TamisError with its last lines when it fails."""
    node, timer = node_for(plan, config), Timer()
    publish_json(run_dir / "train.config.json", config)
    command = [
        sys.executable,
        "-m",
        "trainer.launch",
        "--run",
        str(run_dir),
        "--config",
        str(run_dir / "train.config.json"),
    ]
    last: dict[str, Any] = {}
    with timer, tempfile.TemporaryFile() as errors:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            last = _follow(process, reporter)
            code = process.wait()
        except BaseException:
            process.terminate()  # the trainer saves its state and ends
            process.wait()
            raise
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if code != 0:
        said = lines[-1] if lines else "no message"
        raise TamisError(f"train: the trainer ended with code {code}: {said} (see {run_dir / 'train.log'})")
    metrics = {key: value for key, value in last.items() if key not in ("event",)}
    Store(run_dir).folder(node).mkdir(parents=True, exist_ok=True)
    Store(run_dir).publish(node, "train", [], {"metrics": metrics, "attempt": 0, **timer.to_json()})
    return metrics


def _follow(process: subprocess.Popen, reporter: Reporter) -> dict[str, Any]:
    last: dict[str, Any] = {}
    started, at = False, 0
    assert process.stdout is not None
    for raw in process.stdout:
        try:
            event = json.loads(raw)
        except json.JSONDecodeError:
            continue
        if event.get("event") == "step":
            step = int(event["step"])
            if not started:
                reporter.start("train", int(event["steps"]), step - 1)
                started, at = True, step - 1
            reporter.advance(step - at, f"loss {event['loss']:.3f}, {event.get('tokens_per_s', 0):,.0f} tokens/s")
            at = step
        last = {**last, **event}
    if started:
        reporter.finish(f"loss {last.get('loss', float('nan')):.3f}")
    return last
