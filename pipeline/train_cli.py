"""The commands `tamis train` and `tamis doctor`: training on the shards of a run, and proof that it works here.

The bodies only; the trainer is a process of its own, and torch is never loaded in this one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import ManifestError, Problem, TamisError
from pipeline.progress import Reporter

out = Console()
err = Console(stderr=True)


def train(
    manifest: Annotated[Path, typer.Argument(help="manifest, a YAML file", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="change a value: dotted.path=value, as in train.lr=0.001", metavar="KEY=VALUE"),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="run directory with tokens/ [default: runs/NAME]", show_default=False),
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=0, help="processes; 0 takes train.ranks")] = 0,
    address: Annotated[str | None, typer.Option(help="Ray cluster to train on; `local` starts one here")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the start-up table and end")] = False,
) -> None:
    """Train and probe a model on the shards of a finished run, or go on with a training that was stopped."""
    import stages
    from pipeline import manifest as manifests
    from pipeline import report, run_table, training
    from trainer.config import TrainConfig

    stages.load_all()
    overrides = [*(set_ or []), *([f"train.ranks={ranks}"] if ranks else [])]
    loaded = manifests.load(manifest, overrides, TrainConfig)
    if loaded.train is None:
        raise ManifestError(loaded.file, [Problem("train", "a section that says what to train", "none")])
    folder = (run_dir or Path("runs") / loaded.name).resolve()
    if not (folder / "tokens" / "index.json").exists():
        raise TamisError(f"{folder}: expected tokens/index.json, found none: make the shards with `tamis run` first")
    config, reporter = loaded.train.model_dump(mode="json"), Reporter(err)
    if address and not dry_run:
        last = training.launch_on_ray(folder, config, None if address == "local" else address, reporter)
    else:
        last = training.launch(folder, config, reporter, dry_run)
    if dry_run:
        return
    if last.get("already"):
        err.print("nothing to do: this training is done", style="green")
    if (folder / "summary.json").exists():
        report.build(folder)
    for line in run_table.training(folder):
        out.print(line, highlight=False, markup=False)


def doctor(
    ranks: Annotated[int, typer.Option("--ranks", min=1, max=8, help="processes to prove the parallel modes on")] = 4,
) -> None:
    """Show what this machine can do, and prove that each parallel mode trains the same model as one rank."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "trainer.doctor", "--ranks", str(ranks)]).returncode)
