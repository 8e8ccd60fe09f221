"""The driver: from a manifest to a finished run directory.

It keeps no state of its own: what is committed is done, so a second run does nothing, and a run that was killed
anywhere goes on where it stopped. A failed slice does not stop the others; the run then ends with an error that
names it. Cost: one listing and a few small files for each node.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import exchange, ledger, summary, training, views
from pipeline.commit import Store
from pipeline.errors import ManifestError, Problem, TamisError
from pipeline.executor import Executor, Task
from pipeline.manifest import Manifest
from pipeline.plan import INGEST, Phase, Plan, make_plan, make_slices, stage_of
from pipeline.progress import Reporter
from pipeline.stage import format_types
from pipeline.storage import publish, publish_json

MIN_FREE_BYTES = 256 * 2**20


@dataclass
class RunResult:
    """What a run left: its summary, and whether anything had to be done."""

    summary: dict[str, Any]
    worked: bool
    failures: list[str] = field(default_factory=list)


def prepare(manifest: Manifest, run_dir: Path, reporter: Reporter) -> Plan:
    """Make the files of sources that make their own, cut slices, resolve the plan. No work on documents yet."""
    prepared: dict[str, list[str]] = {}
    for source in manifest.sources:
        make = format_types()[source.format].prepare
        if make and not source.paths:
            reporter.say(f"source {source.name}: preparing")
            prepared[source.name] = make(source.params, run_dir / "sources" / source.name)
    slices = make_slices(manifest, prepared)
    if not slices:
        raise ManifestError(manifest.file, [Problem("sources", "at least one non-empty file", "none")])
    return make_plan(manifest, slices)


def write_plan(manifest: Manifest, plan: Plan, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    publish(run_dir / "manifest.yaml", manifest.text.encode())
    publish_json(run_dir / "manifest.resolved.json", manifest.resolved())
    publish_json(run_dir / "plan.json", plan.to_json())


def missing(run_dir: Path, plan: Plan, phase: Phase) -> list[int]:
    """Slice ordinals that some node of a chain lacks."""
    store = Store(run_dir)
    done = [store.committed(plan.by_name[name]) for name in phase.nodes]
    return [piece.ordinal for piece in plan.slices if not all(piece.key in keys for keys in done)]


def tasks_of(run_dir: Path, plan: Plan, number: int) -> tuple[list[Task], int]:
    """(tasks still to do, number of tasks in all) of a phase."""
    phase, store = plan.phases[number], Store(run_dir)
    if phase.kind == "chain":
        todo = missing(run_dir, plan, phase)
        return [Task(_slice_label(plan, i), "chain", (number, i)) for i in todo], len(plan.slices)
    node = plan.by_name[phase.nodes[0]]
    if phase.kind == "exchange":
        numbers, total = exchange.begin(run_dir, plan, node, phase.step)
        return [Task(f"{node.name} {phase.step} {i}", "exchange", (node.name, phase.step, i)) for i in numbers], total
    keys = {"artifact"} if phase.kind == "artifact" else {piece.key for piece in plan.slices}
    done = keys <= store.committed(node)
    return ([] if done else [Task(node.name, phase.kind, (node.name,))]), 1


def _slice_label(plan: Plan, ordinal: int) -> str:
    piece = plan.slices[ordinal]
    return f"slice {ordinal} ({piece.source}: {piece.file} {piece.start}-{piece.end})"


def run(manifest: Manifest, run_dir: Path, make_executor: Callable[[], Executor], reporter: Reporter) -> RunResult:
    """Run everything that is not committed yet. Raises TamisError when nothing sensible can follow."""
    started = time.time()
    plan = prepare(manifest, run_dir, reporter)
    write_plan(manifest, plan, run_dir)
    if shutil.disk_usage(run_dir).free < MIN_FREE_BYTES:
        raise TamisError(f"{run_dir}: expected at least {MIN_FREE_BYTES >> 20} MiB free on the disk, found less")
    before = summary.read(run_dir)
    worker = _Worker(run_dir, plan, make_executor, reporter)
    train_config = manifest.train.model_dump(mode="json") if manifest.train else None
    body: dict[str, Any] = {"name": manifest.name, "manifest": manifest.file, "ok": False}
    body["started"] = datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds")
    try:
        worker.documents()
        trained: dict[str, Any] | None = None
        if not worker.failures:
            worker.publish()
            worker.close()  # the trainer gets the memory
            if train_config and not training.is_done(run_dir, plan, train_config):
                worker.ran.add("train")
                trained = training.train(run_dir, plan, train_config, reporter)
        current = before is not None and before.get("ok") and before.get("plan") == _plan_key(plan, train_config)
        if before and not worker.ran and not worker.failures and current:
            return RunResult(before, worked=False)
        body |= worker.numbers(train_config)
        body["train"] = trained or (before or {}).get("train")
        body["plan"] = _plan_key(plan, train_config)
    except TamisError as error:
        worker.failures.append(str(error))
        body["failures"] = worker.failures
        summary.write(run_dir, {**body, "seconds": round(time.time() - started, 1)})
        raise
    finally:
        worker.close()
    body |= {"failures": worker.failures, "ok": not worker.failures, "seconds": round(time.time() - started, 1)}
    body["finished"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    summary.write(run_dir, body)
    return RunResult(body, worked=True, failures=worker.failures)


def _plan_key(plan: Plan, train_config: dict[str, Any] | None) -> str:
    return (
        ledger.node_for(plan).fingerprint
        + plan.corpus_key()
        + (training.node_for(plan, train_config).fingerprint if train_config else "")
    )


class _Worker:
    """The phases of one run, on an executor that is started only when there is something to do."""

    def __init__(self, run_dir: Path, plan: Plan, make_executor: Callable[[], Executor], reporter: Reporter) -> None:
        self.run_dir, self.plan, self.reporter = run_dir, plan, reporter
        self._make = make_executor
        self._executor: Executor | None = None
        self.failures: list[str] = []
        self.ran: set[str] = set()

    def documents(self) -> None:
        """Run every phase and the ledger; stops after the first phase with a failure."""
        for number, phase in enumerate(self.plan.phases):
            todo, total = tasks_of(self.run_dir, self.plan, number)
            self._run(" > ".join(phase.nodes) + f" {phase.step}".rstrip(), todo, total)
            if self.failures:
                return
            if phase.kind == "exchange":
                exchange.sweep(self.run_dir, self.plan, self.plan.by_name[phase.nodes[0]])
            if INGEST in phase.nodes:
                self._check_sources()
        self.plan_ledger()

    def plan_ledger(self) -> None:
        done = Store(self.run_dir).committed(ledger.node_for(self.plan))
        todo = [
            Task(_slice_label(self.plan, p.ordinal), "ledger", (p.ordinal,))
            for p in self.plan.slices
            if p.key not in done
        ]
        self._run("ledger", todo, len(self.plan.slices))

    def _run(self, label: str, todo: list[Task], total: int) -> None:
        if not todo:
            return
        if self._executor is None:
            self._executor = self._make()
        label = label if len(label) <= 40 else label[:20] + " ... " + label[-15:]
        self.reporter.start(label, total, total - len(todo))
        documents, kept = 0, 0
        started = time.monotonic()
        for done in self._executor.run(self.run_dir, todo):
            own = done.task.kind in ("chain", "ledger")
            self.ran |= set(done.result or ()) if own else {done.task.arguments[0]}
            if done.error:
                self.failures.append(f"{label}: {done.task.label}: {done.error}")
                self.reporter.say(self.failures[-1], style="red")
            if done.task.kind == "chain" and done.result:
                counts = [count["documents"] for count in done.result.values()]
                documents, kept = documents + counts[0]["in"], kept + counts[-1]["kept"]
            speed = documents / max(1e-9, time.monotonic() - started)
            note = f"{documents:,} documents, {speed:,.0f}/s, {kept:,} kept" if documents else ""
            self.reporter.advance(1, note)
        self.reporter.finish(note)

    def _check_sources(self) -> None:
        store, node = Store(self.run_dir), self.plan.by_name[INGEST]
        found: dict[str, int] = dict.fromkeys(self.plan.sources, 0)
        for piece in self.plan.slices:
            record = store.commit(node, piece.key)
            found[piece.source] += record["counts"]["documents"]["in"] if record else 0
        empty = sorted(name for name, count in found.items() if not count)
        if empty:
            raise TamisError(
                f"source {', '.join(empty)}: expected at least one record, found none; check paths and format"
            )

    def publish(self) -> None:
        """Show committed results under their contract names."""
        views.publish_ledger(self.run_dir, self.plan)
        for node in self.plan.nodes:
            if node.kind == "artifact" and stage_of(node).publish:
                views.publish_artifact(self.run_dir, self.plan, node)
            elif node.kind == "exchange" and stage_of(node).publish:
                views.publish_exchange(self.run_dir, self.plan, node)
            elif node.kind == "sink":
                views.publish_sink(self.run_dir, self.plan, node)

    def numbers(self, train_config: dict[str, Any] | None) -> dict[str, Any]:
        """Totals for the summary, after checking that no document was lost."""
        extra = [ledger.node_for(self.plan)] + ([training.node_for(self.plan, train_config)] if train_config else [])
        stages = summary.write_stage_files(self.run_dir, self.plan, self.ran, extra)
        if self.failures:
            return {"stages": stages, "warnings": []}
        documents, sizes = summary.check_conservation(self.run_dir, self.plan, stages)
        return {
            "documents": documents,
            "bytes": sizes,
            "stages": stages,
            **summary.findings(self.run_dir, self.plan, stages),
        }

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None
