"""`tamis plan`: the nodes in order, what is committed, what would run, and how much of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import ledger, run, training
from pipeline.commit import Store
from pipeline.manifest import Manifest
from pipeline.plan import Node, Plan
from pipeline.progress import Reporter


def show(manifest: Manifest, run_dir: Path, console: Console) -> None:
    """Print the plan against what the run directory holds. A source that makes its own files makes them here."""
    plan = run.prepare(manifest, run_dir, Reporter())
    store = Store(run_dir)
    table = Table(
        title=f"{manifest.name}: {len(plan.slices)} slices of {len(plan.sources)} source(s)", title_justify="left"
    )
    for heading in ("stage", "kind", "fingerprint", "reads", "state"):
        table.add_column(heading)
    todo = 0
    nodes = [*plan.nodes, ledger.node_for(plan)]
    if manifest.train:
        nodes.append(training.node_for(plan, manifest.train.model_dump(mode="json")))
    for node in nodes:
        keys = _keys(plan, node)
        missing = len(keys - store.committed(node))
        todo += bool(missing)
        if node.kind == "sketch":
            continue
        reads = ", ".join(dict.fromkeys([*node.artifacts, *node.producers.values()]))
        state = "[green]done[/green]" if not missing else f"[yellow]runs[/yellow] ({missing} of {len(keys)})"
        table.add_row(escape(node.name), node.kind, node.fingerprint[:12], escape(reads), state)
    console.print(table)
    console.print("nothing to do" if not todo else f"{todo} steps would run; `tamis run` starts them", highlight=False)


def _keys(plan: Plan, node: Node) -> set[str]:
    if node.kind in ("artifact", "train"):
        return {node.kind}
    return {piece.key for piece in plan.slices}
