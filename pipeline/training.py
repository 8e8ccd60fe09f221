"""Launching the trainer on the shards: a process of its own, which reads only what the pipeline wrote.

Its events (one JSON object a line) become progress; what its libraries say goes to `train.log`. On a Ray cluster the
ranks are started by `ray_executor.run_ranks` instead, with the same events. In `tamis run` the launch is a node like
any other: committed under a fingerprint of its configuration and of everything that it reads.

A first Ctrl-C or SIGTERM asks the trainer to finish its step, save a checkpoint and end; a second one ends it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.commit import Store, Timer
from pipeline.errors import Stopped, TamisError, ended
from pipeline.plan import Node, Plan, stage_of
from pipeline.progress import Reporter
from pipeline.start_table import start_table
from pipeline.storage import digest, file_sha256, publish_json

CONFIG, STOP = "train.config.json", "stop"
SETTINGS = "training.json"  # left by the trainer: what the checkpoints and logs are of


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
    """Whether this training is committed and still the one that lies there: `tamis train` may have made another."""
    record = Store(run_dir).commit(node_for(plan, config), "train")
    lies = record is not None and record["metrics"].get("settings") == _settings(run_dir)
    return lies and (run_dir / "train.jsonl").exists()


def _settings(run_dir: Path) -> str | None:
    path = run_dir / SETTINGS
    return file_sha256(path) if path.exists() else None


def train(run_dir: Path, plan: Plan, config: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Train as the last node of a run, and commit it. Raises TamisError with the trainer's message when it fails."""
    node, timer = node_for(plan, config), Timer()
    with timer:
        metrics = launch(run_dir, config, reporter)
        metrics["settings"] = _settings(run_dir)
    Store(run_dir).folder(node).mkdir(parents=True, exist_ok=True)
    Store(run_dir).publish(node, "train", [], {"metrics": metrics, "attempt": 0, **timer.to_json()})
    return metrics


def launch(run_dir: Path, config: dict[str, Any], reporter: Reporter, dry: bool = False) -> dict[str, Any]:
    """Train on this machine; the fields of all events together, later ones in front. `dry` shows the table only."""
    publish_json(run_dir / CONFIG, config)
    command = [sys.executable, "-m", "trainer.launch", "--run", str(run_dir), "--config", str(run_dir / CONFIG)]
    command += ["--dry-run"] if dry else []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        try:
            with _stopping(process.terminate, reporter):
                last = follow(process.stdout, reporter)
                code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if code == -signal.SIGTERM:
        raise Stopped("stopped before its first step: the same command begins there")
    if code != 0:
        said = lines[-1] if lines else f"no message (see {run_dir / 'train.log'})"
        said = ended("the trainer", code) if code < 0 else said
        raise TamisError(f"train: {said.removeprefix('trainer: ')}")
    return _ended(last, run_dir)


def launch_on_ray(run_dir: Path, config: dict[str, Any], address: str | None, reporter: Reporter) -> dict[str, Any]:
    """Train with one process for each rank on the nodes of a Ray cluster; the run directory is on a shared disk."""
    from pipeline.ray_executor import run_ranks

    publish_json(run_dir / CONFIG, config)
    (run_dir / STOP).unlink(missing_ok=True)  # from before this start
    arguments = ["-m", "trainer.train", str(run_dir), str(run_dir / CONFIG)]
    with _stopping((run_dir / STOP).touch, reporter):
        lines = run_ranks(arguments, config["ranks"], address, run_dir / "train.log", config["threads"] or 1)
        return _ended(follow(lines, reporter), run_dir)


def _ended(last: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    kind = last.pop("event", None)
    if kind == "stopped":
        raise Stopped(f"stopped after step {last['step']} of {last['steps']}, its checkpoint is in {run_dir}: the same "
                      "command goes on from there")  # fmt: skip
    return last


@contextmanager
def _stopping(ask: Callable[[], None], reporter: Reporter) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a request; from the second one on into Stopped, at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change handlers
        return
    asked = False

    def take(_number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            raise Stopped("ended at once: the same command goes on from the last checkpoint")
        asked = True
        reporter.say("stopping: finishing the step and saving a checkpoint; once more ends it now", style="yellow")
        ask()

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(lines: Iterable[bytes], reporter: Reporter) -> dict[str, Any]:
    """Show the trainer's events; their fields together, with the kind of the last one as `event`."""
    last: dict[str, Any] = {}
    started, at = False, 0
    try:
        for raw in lines:
            try:
                event = json.loads(raw)
            except json.JSONDecodeError:
                continue
            kind = event.get("event")
            if kind == "estimate":
                reporter.console.print(start_table(event["rows"]))
                continue
            if kind in ("spike", "note", "restart"):
                reporter.say(_note(event), style="yellow")
                continue
            if kind == "step":
                step = int(event["step"])
                if not started:
                    reporter.start("train", int(event["steps"]), step - 1)
                    started, at = True, step - 1
                reporter.advance(step - at, _progress(event))
                at = step
            if kind not in ("probe", "probed"):  # they have files of their own
                last = {**last, **event}
    finally:  # a bar that is left behind keeps the cursor of the terminal
        if started:
            reporter.finish(f"loss {last.get('loss', float('nan')):.3f}")
    return last


def _note(event: dict[str, Any]) -> str:
    if event["event"] == "spike":
        return (
            f"step {event['step']}: loss {event['loss']:.3f}, {event['deviations']:.1f} standard deviations above the "
            f"recent ones ({event['expected']:.3f}); {event['report']} names the documents of the batch"
        )
    if event["event"] == "restart":
        return f"starting anew, since {event['reason']}; the old checkpoints are in {event['moved_to']}"
    return str(event["text"])


def _progress(event: dict[str, Any]) -> str:
    """`loss 3.123, 12,345 tokens/s, MFU 41%, 1.2 GB, data wait 0.1%`: with the bar, one line of 100 columns."""
    parts = [f"loss {event['loss']:.3f}", f"{event.get('tokens_per_s', 0):,.0f} tokens/s"]
    if event.get("mfu") is not None:
        parts.append(f"MFU {event['mfu']:.0%}")
    if event.get("memory_bytes"):
        parts.append(f"{event['memory_bytes'] / 1e9:.1f} GB")
    if event.get("data_wait") is not None:
        parts.append(f"data wait {event['data_wait']:.1%}")
    return ", ".join(parts)
